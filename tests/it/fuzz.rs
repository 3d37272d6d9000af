//! The checks of the fuzz targets, over their corpus and over what can be made of it: the same at each run.
//!
//! `make fuzz` lets libFuzzer look for more. After a change of the samples, `UPDATE_CORPUS=1 cargo test --test it fuzz::` writes the corpus.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest;
use sha2::Sha256;

use crate::support::samples;

#[expect(unreachable_pub, reason = "the fuzz targets reach it, from another crate")]
#[path = "../../fuzz/src/checks/mod.rs"]
mod checks;

/// What the signatures of the corpus are of.
const TOKEN: &str = "bridge-test-token";
const REQUEST_TIME: &str = "1751360400";

/// How many mutations of one seed are tried.
const MUTATIONS: u64 = 40;

/// Pieces of what is read, to put where they do not belong.
const PIECES: &[&[u8]] = &[
    b"%",
    b"%00",
    b"%c3%28",
    b"&",
    b"=",
    b"+",
    b"\0",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b"{}",
    b"[{}]",
    b"null",
    b"1e400",
    b"-0",
    b"18446744073709551616",
    b"\"\"",
    b",",
    b"\"CallbackCommand\":",
    b"\"Events\":[{}]",
    b"\"Official_Account\":",
    b"\"EventTime\":",
    b"\"MsgBody\":",
    b"CallbackCommand=",
    b"SdkAppid=1400000000",
    b"[[[[[[[[[[[[[[[[",
    b"jared",
    b"@TOA#_closed",
    b"\xe6\x96\xb0",
];

#[test]
fn the_corpus_has_seeds_of_every_command() {
    let expected = seeds();
    if env::var("UPDATE_CORPUS").is_ok_and(|value| value == "1") {
        for (name, bytes) in &expected {
            let path = corpus().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    for (name, bytes) in expected {
        let found = fs::read(corpus().join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == bytes, "{name}: write it again with UPDATE_CORPUS=1");
    }
}

#[test]
fn whatever_the_query_it_is_read_as_a_simple_reader_reads_it() {
    try_all("query", checks::query::check);
}

#[test]
fn whatever_the_signature_nobody_gets_in_but_who_knows_a_token_and_is_in_time() {
    try_all("signature", checks::signature::check);
}

#[test]
fn whatever_the_body_it_is_taken_or_refused_with_a_place_in_it() {
    try_all("body", checks::body::check);
}

#[test]
fn whatever_is_taken_comes_out_as_its_schema_says_with_the_body_byte_for_byte() {
    try_all("envelope", checks::envelope::check);
}

/// Every file of a target's corpus, and mutations of it.
fn try_all(target: &str, check: fn(&[u8])) {
    let files = fs::read_dir(corpus().join(target)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    let inputs: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!inputs.is_empty());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for input in &inputs {
        check(input);
        let mut mutated = input.clone();
        for turn in 0..MUTATIONS {
            // A few changes on top of each other, then from the seed again.
            if turn % 4 == 0 {
                mutated.clone_from(input);
            }
            mutate(&mut mutated, &inputs, &mut random);
            check(&mutated);
        }
    }
}

/// Changes one thing.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(16)).min(bytes.len());
    match random.below(6) {
        0 => drop(bytes.drain(at..end)),
        1 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
        2 => drop(bytes.splice(at..end, PIECES[random.below(PIECES.len())].iter().copied())),
        3 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, again));
        }
        4 => {
            let other = &others[random.below(others.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

/// xorshift64: the same numbers at each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 32).unwrap() % limit
    }
}

/// The files that must be there, by their paths. The fuzzer's finds may lie beside them.
fn seeds() -> BTreeMap<String, Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
    for sample in samples::all() {
        let number = numbers.entry(sample.command).or_default();
        *number += 1;
        let name = format!("{}.{number}", sample.command);
        let (query, body) = (samples::query(sample.command), sample.callback.get());
        let sign = Sha256::digest(format!("{TOKEN}{REQUEST_TIME}"));
        let sign: String = sign.iter().map(|byte| format!("{byte:02x}")).collect();
        if *number == 1 {
            let signed = format!("{query}&Sign={sign}&RequestTime={REQUEST_TIME}");
            seeds.insert(format!("query/{name}"), query.clone().into_bytes());
            seeds.insert(format!("signature/{name}"), signed.into_bytes());
        }
        seeds.insert(format!("body/{name}"), body.as_bytes().to_vec());
        seeds.insert(format!("envelope/{name}"), format!("{query}\n{body}").into_bytes());
    }
    seeds
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}
