//! The callbridge program: the allocator, the handling of panics, and the exit code.

use std::panic;
use std::process;
use std::process::ExitCode;

use callbridge::cli::Cli;
use clap::Parser;
use mimalloc::MiMalloc;
use rustix::thread::disable_transparent_huge_pages;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    end_on_panic();
    // The allocator asks for them. They take up to twice the memory, and nothing is faster (docs/decisions.md). Where the kernel cannot
    // disable them, there are none.
    let _result = disable_transparent_huge_pages(true);
    Cli::parse().run()
}

/// A process that has lost a thread or a task would look alive and serve nothing. So a panic ends it, in every build profile.
fn end_on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        print(panic);
        process::abort();
    }));
}
