//! What is measured: callbridge in its three modes, and other ways to take callbacks.

use std::fs;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process;

use clap::ValueEnum;
use serde::Serialize;

use crate::broker::Broker;
use crate::callback;
use crate::callback::Command;
use crate::options::Mode;
use crate::options::OUTPUT;
use crate::process::command;
use crate::server::Server;
use crate::server::Setup;
use crate::topic::Topic;

/// Where the sources of the peers are.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");

/// A server that takes callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    Journal,
    Broker,
    Memory,
    Hyper,
    GoAfterKafka,
    GoAtOnce,
    Bento,
}

/// What has happened to an event when its callback is answered with 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Acknowledges {
    AfterSync,
    AfterKafka,
    AtOnce,
    Nothing,
}

/// What the servers need.
pub(crate) struct Site<'a> {
    pub(crate) program: &'a Path,
    pub(crate) broker: &'a Broker,
}

impl Subject {
    /// What it is called in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Journal => "callbridge `journal`",
            Self::Broker => "callbridge `broker`",
            Self::Memory => "callbridge `memory`",
            Self::Hyper => "bare hyper, publishes nothing",
            Self::GoAfterKafka => "Go + franz-go, after Kafka",
            Self::GoAtOnce => "Go + franz-go, at once",
            Self::Bento => "Bento",
        }
    }

    pub(crate) const fn acknowledges(self) -> Acknowledges {
        match self {
            Self::Journal => Acknowledges::AfterSync,
            Self::Broker | Self::GoAfterKafka | Self::Bento => Acknowledges::AfterKafka,
            Self::Memory | Self::GoAtOnce => Acknowledges::AtOnce,
            Self::Hyper => Acknowledges::Nothing,
        }
    }

    /// Whether it is somebody else's way to do what callbridge does.
    pub(crate) const fn is_peer(self) -> bool {
        match self {
            Self::GoAfterKafka | Self::GoAtOnce | Self::Bento => true,
            Self::Journal | Self::Broker | Self::Memory | Self::Hyper => false,
        }
    }

    /// The topic that its records go to.
    pub(crate) fn topic(self, broker: &Broker) -> io::Result<Topic> {
        Topic::new(broker, format!("{}.{}", self.prefix(), Command::After.name()))
    }

    /// Starts it with what it left behind, if it was killed, and waits until it is ready.
    pub(crate) fn start(self, site: &Site<'_>) -> io::Result<Server> {
        match self {
            Self::Journal => callbridge(Mode::Journal, site),
            Self::Broker => callbridge(Mode::Broker, site),
            Self::Memory => callbridge(Mode::Memory, site),
            Self::Hyper => Server::bare(),
            Self::GoAfterKafka | Self::GoAtOnce => {
                let mut go = command(program("go"))?;
                go.args(["-brokers", &site.broker.address, "-app", &callback::APP.to_string()]);
                go.args(["-prefix", &self.prefix(), "-listen", "127.0.0.1:0"]);
                go.arg("-token-file").arg(callback::token_file()?);
                if self == Self::GoAfterKafka {
                    go.arg("-after-kafka");
                }
                Server::other(&self.prefix(), &mut go, self.topic(site.broker)?)
            }
            Self::Bento => {
                let address = free_address()?;
                let mut bento = command(program("bento"))?;
                bento.arg("run").arg(Path::new(SOURCES).join("bento/bridge.yaml"));
                bento.env("LISTEN", address.to_string()).env("BROKERS", &site.broker.address);
                bento.env("APP", callback::APP.to_string()).env("TOKEN", callback::TOKEN);
                bento.env("PREFIX", self.prefix());
                Server::listening(&self.prefix(), &mut bento, address, self.topic(site.broker)?)
            }
        }
    }

    /// Makes its program and its topic where callbridge does not: what is missing is the reason to skip it.
    pub(crate) fn prepare(self, broker: &Broker) -> io::Result<Result<(), String>> {
        let built = match self {
            Self::GoAfterKafka | Self::GoAtOnce => build("go"),
            Self::Bento => build("bento"),
            Self::Journal | Self::Broker | Self::Memory | Self::Hyper => return Ok(Ok(())),
        };
        if built.is_ok() {
            self.topic(broker)?.create(broker)?;
        }
        Ok(built)
    }

    fn prefix(self) -> String {
        match self {
            Self::Journal => Mode::Journal.topic_prefix(),
            Self::Broker => Mode::Broker.topic_prefix(),
            Self::Memory => Mode::Memory.topic_prefix(),
            Self::Hyper => "bench-hyper".to_owned(),
            Self::GoAfterKafka => "bench-go-after-kafka".to_owned(),
            Self::GoAtOnce => "bench-go-at-once".to_owned(),
            Self::Bento => "bench-bento".to_owned(),
        }
    }
}

fn callbridge(mode: Mode, site: &Site<'_>) -> io::Result<Server> {
    let (program, broker) = (site.program, Some(site.broker));
    Server::start(Setup { name: mode.name(), program, mode, broker, is_signed: true, settings: &[] })
}

fn program(name: &str) -> PathBuf {
    Path::new(OUTPUT).join("peers").join(name)
}

/// Builds a peer that is written in Go, or says why it cannot be built.
fn build(name: &str) -> Result<(), String> {
    let log = Path::new(OUTPUT).join(format!("build-{name}.log"));
    let make = || {
        fs::create_dir_all(Path::new(OUTPUT).join("peers"))?;
        let mut go = process::Command::new("go");
        go.current_dir(Path::new(SOURCES).join(name)).args(["build", "-trimpath", "-o"]).arg(program(name)).arg(".");
        go.stderr(File::create(&log)?).status()
    };
    match make() {
        Ok(status) if status.success() => Ok(()),
        Ok(_failed) => {
            let said = fs::read_to_string(&log).unwrap_or_default();
            Err(format!("go build: {}", said.lines().last().unwrap_or("failed")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("there is no go".to_owned()),
        Err(error) => Err(format!("go build: {error}")),
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
