//! The bare hyper server: what a callback costs when nothing is done with it.
//!
//! It has tokio's usual runtime, of as many threads as callbridge has workers, and callbridge's allocator and connection options. It
//! reads the whole body and answers what callbridge answers, and that is all.

use std::convert::Infallible;
use std::io;
use std::io::Read;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime;

use crate::server::WORKERS;

/// callbridge's answer to an after-callback.
const OK_ANSWER: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

/// Serves on a free port, which it prints, until its standard input ends.
pub(crate) fn serve() -> io::Result<()> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("callbacks on http://{}", listener.local_addr()?);
    runtime.spawn(accept(listener));
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "nothing waits for its stop")]
async fn accept(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .keep_alive(true)
                .half_close(false)
                .pipeline_flush(false)
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // The load ends by closing its connections: not worth a word.
            drop(connection.await);
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(OK_ANSWER)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if body.is_err() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}
