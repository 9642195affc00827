//! Fuzzing without a nightly toolchain: damages sound inputs at random, from a seed, and counts.
//!
//! ```sh
//! cargo run --release --example fuzz -- TARGET|all EXECUTIONS [SEED]
//! cargo run --release --example fuzz -- seeds
//! ```
//! It sees no coverage, so it needs more executions than cargo-fuzz to get as far; what it finds, it finds again with
//! the same seed. An input that breaks a promise is written to `fuzz/findings/`, and the exit code is 1. `seeds` writes the
//! sound inputs to `fuzz/corpus/TARGET/`, where cargo-fuzz begins with them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

#[path = "targets.rs"]
mod targets;

use targets::{KINDS, TARGETS, Target, damage};

/// Longer than this and an input counts as endless.
const ENDLESS: Duration = Duration::from_secs(10);

/// Inputs begun, for the watchdog.
static BEGUN: AtomicU64 = AtomicU64::new(0);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, executions) = match &arguments[..] {
        [name] if name == "seeds" => return write_seeds(),
        [name, executions, ..] => (name.as_str(), executions.parse().expect("EXECUTIONS is a number")),
        _ => panic!("usage: fuzz TARGET|all EXECUTIONS [SEED], or fuzz seeds"),
    };
    let seed = arguments.get(2).map_or(0, |seed| seed.parse().expect("SEED is a number"));
    let chosen: Vec<&Target> = TARGETS.iter().filter(|t| name == "all" || t.name == name).collect();
    assert!(!chosen.is_empty(), "targets: {}", TARGETS.iter().map(|t| t.name).collect::<Vec<_>>().join(", "));
    std::thread::spawn(watch);
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let findings: u64 = chosen.into_iter().map(|target| fuzz(target, executions, seed)).sum();
    std::process::exit(i32::from(findings > 0));
}

fn write_seeds() {
    for target in TARGETS {
        let folder = format!("fuzz/corpus/{}", target.name);
        std::fs::create_dir_all(&folder).expect("can be made");
        for (index, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(format!("{folder}/sound-{index}"), seed).expect("can be written");
        }
    }
}

fn fuzz(target: &Target, executions: u64, seed: u64) -> u64 {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let seeds = (target.seeds)();
    let (start, mut findings) = (Instant::now(), 0);
    for execution in 0..executions {
        let mut input = seeds[random.random_range(0..seeds.len())].clone();
        for _ in 0..random.random_range(1..=6) {
            damage(&mut input, random.random::<u64>() as usize, random.random_range(0..KINDS), random.random());
        }
        BEGUN.fetch_add(1, Ordering::Relaxed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            findings += 1;
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            let path = format!("fuzz/findings/{}-{seed}-{execution}", target.name);
            let _ = std::fs::create_dir_all("fuzz/findings");
            let _ = std::fs::write(&path, &input);
            println!("{path}: {text}");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = executions as f64 / seconds;
    println!("{}: {executions} executions, seed {seed}, {seconds:.0} s, {rate:.0}/s, {findings} findings", target.name);
    findings
}

/// Ends the process if an input does.
fn watch() {
    let mut last = (0, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let begun = BEGUN.load(Ordering::Relaxed);
        if begun != last.0 {
            last = (begun, Instant::now());
        } else if begun > 0 && last.1.elapsed() > ENDLESS {
            println!("input {begun} of this run has taken {} s", ENDLESS.as_secs());
            std::process::exit(1);
        }
    }
}
