//! What the cache and a compilation may use up, and what happens at the bounds.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use lighter_core::ErrorClass;
use lighter_wasm::cache::Entry;
use lighter_wasm::{ArtifactCache, CacheLimits, Compilation, Variant, World};

use crate::cache::{compilations, counting_compiler};
use crate::guests::{BUSY, HELLO, start};
use crate::process::{COMPILER, Node, finish};

crate::tests![
    what_was_not_used_for_longest_goes_first,
    what_a_process_maps_stays,
    a_use_is_noted,
    variants_are_kept_apart,
    a_variant_that_is_not_wanted_is_refused,
    a_digest_names_what_is_removed,
    damage_is_found_by_reading,
    a_source_that_is_too_long_is_refused,
    programs_wait_for_their_turn,
    who_waits_too_long_is_told_and_finds_it_later,
    a_failure_is_not_repeated_for_a_while,
    too_little_memory_is_named,
    too_little_time_is_named,
    too_much_code_is_named,
    the_node_can_be_tried_out,
];

pub fn cache(node: &Node, limits: CacheLimits) -> ArtifactCache {
    ArtifactCache::new(node.cache(), COMPILER.into()).with_limits(limits)
}

pub fn usual(node: &Node) -> ArtifactCache {
    cache(node, CacheLimits::default())
}

pub fn as_command(_: World) -> Result<Compilation, String> {
    Ok(Compilation::default())
}

/// Compiles `text` in `cache`; the source's digest.
fn compile(node: &Node, cache: &ArtifactCache, text: &str) -> Result<Entry, String> {
    let file = File::open(node.text(text).file).unwrap();
    cache
        .precompile(file, &as_command)
        .map(|(entry, _)| entry)
        .map_err(|error| error.to_string())
}

/// A module that differs from the others of its kind.
fn numbered(number: u32) -> String {
    start(&format!("(call $proc_exit (i32.const {number}))"))
}

fn set_last_used(node: &Node, source: &str, age: Duration) {
    for entry in fs::read_dir(node.cache().join("code")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains(source) {
            let times = fs::FileTimes::new().set_accessed(SystemTime::now() - age);
            File::open(path).unwrap().set_times(times).unwrap();
        }
    }
}

fn sources(cache: &ArtifactCache) -> Vec<String> {
    cache
        .list()
        .unwrap()
        .into_iter()
        .map(|entry| entry.source)
        .collect()
}

fn what_was_not_used_for_longest_goes_first() {
    let node = Node::new();
    let unlimited = usual(&node);
    let entries: Vec<Entry> = (0..4)
        .map(|number| compile(&node, &unlimited, &numbered(number)).unwrap())
        .collect();
    // The first one is old but was used last.
    for (entry, hours) in entries.iter().zip([1, 4, 3, 2]) {
        set_last_used(&node, &entry.source, Duration::from_secs(hours * 3600));
    }
    let room = CacheLimits {
        bytes: entries[0].bytes * 3,
        ..CacheLimits::default()
    };
    // No room for a fifth: two have to go, at once.
    let new = compile(&node, &cache(&node, room), &numbered(9)).unwrap();
    let mut left = sources(&unlimited);
    let mut expected = vec![
        entries[0].source.clone(),
        entries[3].source.clone(),
        new.source.clone(),
    ];
    expected.sort();
    left.sort();
    assert_eq!(left, expected);
    // What is known of those that are gone is gone too.
    let known = fs::read_dir(node.cache().join("sources")).unwrap().count();
    assert_eq!(known, 3);
    let pruned = unlimited.prune(new.bytes).unwrap();
    assert_eq!(pruned.removed.len(), 2);
    assert_eq!(sources(&unlimited), [new.source]);
}

/// A guest that computes until it is killed, and has begun.
fn busy(node: &Node) -> Child {
    let mut child = node.text(BUSY).spawn(Stdio::null());
    let mut first = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    child
}

fn what_a_process_maps_stays() {
    let node = Node::new();
    let cache = usual(&node);
    let mut guest = busy(&node);
    let mapped = cache.list().unwrap().remove(0);
    assert!(mapped.in_use);
    set_last_used(&node, &mapped.source, Duration::from_secs(1 << 20));
    compile(&node, &cache, HELLO).unwrap();
    let pruned = cache.prune(0).unwrap();
    assert_eq!(pruned.removed.len(), 1);
    assert_eq!(pruned.kept_in_use, 1);
    assert_eq!(pruned.bytes, mapped.bytes);
    assert_eq!(sources(&cache), std::slice::from_ref(&mapped.source));
    let error = cache.remove(&mapped.source).unwrap_err().to_string();
    assert!(error.contains("stop the container"), "{error}");
    guest.kill().unwrap();
    guest.wait().unwrap();
    assert!(!cache.list().unwrap()[0].in_use);
    assert_eq!(cache.prune(0).unwrap().removed.len(), 1);
    assert!(sources(&cache).is_empty());
}

fn a_use_is_noted() {
    let node = Node::new();
    let cache = usual(&node);
    let entry = compile(&node, &cache, HELLO).unwrap();
    let age = || {
        let last = cache.list().unwrap()[0].last_used;
        last.elapsed().unwrap_or_default().as_secs()
    };
    assert!(age() < 60);
    set_last_used(&node, &entry.source, Duration::from_secs(3600));
    // To look is not to use.
    cache.verify().unwrap();
    assert!(age() > 3000);
    node.text(HELLO).compiler("/nonexistent").run();
    assert!(age() < 60);
}

fn variants_are_kept_apart() {
    let node = Node::new();
    let cache = usual(&node);
    let path = node.text(HELLO).file;
    for round in 0..2 {
        for variant in Variant::ALL {
            let file = File::open(&path).unwrap();
            let chosen = Compilation {
                variant,
                preview3: false,
            };
            let (entry, is_new) = cache.precompile(file, &|_| Ok(chosen)).unwrap();
            assert_eq!(is_new, round == 0, "{variant:?}");
            assert_eq!(entry.compilation, chosen);
        }
    }
    let entries = cache.list().unwrap();
    assert_eq!(entries.len(), 4);
    let engines: std::collections::BTreeSet<String> = entries
        .iter()
        .map(|entry| entry.details.as_ref().unwrap().engine.clone())
        .collect();
    assert_eq!(engines.len(), 4, "the worker's own hashes differ");
    // One source, whatever it was compiled for.
    assert_eq!(
        fs::read_dir(node.cache().join("sources")).unwrap().count(),
        1
    );
}

fn a_variant_that_is_not_wanted_is_refused() {
    let node = Node::new();
    let cache = usual(&node);
    let path = node.text(HELLO).file;
    let refuse = |world: World| Err(format!("is a {world}, which this node does not run"));
    let mut errors = Vec::new();
    // Whether or not it has been compiled before.
    for _ in 0..2 {
        let file = File::open(&path).unwrap();
        errors.push(cache.precompile(file, &refuse).unwrap_err().to_string());
        compile(&node, &cache, HELLO).unwrap();
    }
    assert_eq!(errors, ["is a module, which this node does not run"; 2]);
    assert_eq!(cache.list().unwrap().len(), 1);
}

fn a_digest_names_what_is_removed() {
    let node = Node::new();
    let cache = usual(&node);
    let entries: Vec<Entry> = (0..20)
        .map(|number| compile(&node, &cache, &numbered(number)).unwrap())
        .collect();
    let refusal = |prefix: &str| cache.remove(prefix).unwrap_err().to_string();
    assert!(refusal("xyz").contains("there is no"));
    assert!(refusal("").contains("there is no"));
    // Twenty digests and sixteen first digits.
    let twice = "0123456789abcdef".chars().find(|first| {
        let same = entries
            .iter()
            .filter(|entry| entry.source.starts_with(*first));
        same.count() > 1
    });
    assert!(refusal(&twice.unwrap().to_string()).contains("several"));
    assert_eq!(cache.list().unwrap().len(), 20);
    let removed = cache.remove(&entries[7].source[..12]).unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].source, entries[7].source);
    assert!(!sources(&cache).contains(&entries[7].source));
}

fn damage_is_found_by_reading() {
    let node = Node::new();
    let cache = usual(&node);
    let entry = compile(&node, &cache, HELLO).unwrap();
    compile(&node, &cache, &numbered(1)).unwrap();
    assert!(cache.verify().unwrap().is_empty());
    let path = fs::read_dir(node.cache().join("code"))
        .unwrap()
        .map(|found| found.unwrap().path())
        .find(|path| path.to_str().unwrap().contains(&entry.source))
        .unwrap();
    // As a disk loses a bit: no time tells.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut code = fs::read(&path).unwrap();
    code[1000] ^= 1;
    fs::write(&path, code).unwrap();
    File::open(&path).unwrap().set_modified(modified).unwrap();
    let damaged = cache.verify().unwrap();
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].source, entry.source);
    assert!(!path.exists());
    assert_eq!(node.text(HELLO).run().stdout, "hello\n");
}

fn a_source_that_is_too_long_is_refused() {
    let node = Node::new();
    let limits = CacheLimits {
        source_bytes: 1 << 20,
        ..CacheLimits::default()
    };
    let error = compile(&node, &cache(&node, limits), &long(2 << 20)).unwrap_err();
    assert!(error.contains("longer than 1 MiB"), "{error}");
    assert!(error.contains("source-bytes"), "{error}");
}

/// What the slow compiler creates when it begins.
fn begun(node: &Node) -> PathBuf {
    node.folder.path().join("begun")
}

/// A compiler that does not end before there is a file of the second path.
fn slow_compiler(node: &Node) -> (PathBuf, PathBuf) {
    let slow = node.folder.path().join("slow");
    let go_on = node.folder.path().join("go-on");
    let script = format!(
        "#!/bin/sh\n: > '{}'\nwhile [ ! -e '{}' ]; do sleep 0.01; done\nexec '{COMPILER}' \"$@\"\n",
        begun(node).display(),
        go_on.display()
    );
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o700)).unwrap();
    (slow, go_on)
}

/// As kubelet does with a large program: it gives up, and tries again.
fn who_waits_too_long_is_told_and_finds_it_later() {
    let node = Node::new();
    let (slow, go_on) = slow_compiler(&node);
    let slow = ArtifactCache::new(node.cache(), slow);
    let hasty = usual(&node).with_patience(Duration::from_millis(50));
    let path = node.folder.path().join("app.wasm");
    fs::write(&path, wat::parse_str(HELLO).unwrap()).unwrap();
    let source = || File::open(&path).unwrap();
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| slow.precompile(source(), &as_command));
        // Whoever comes first compiles it.
        while !begun(&node).exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut text = String::new();
        while !text.contains(" s so far, ") {
            let error = hasty.precompile(source(), &as_command).unwrap_err();
            assert_eq!(error.class(), ErrorClass::DeadlineExceeded, "{error}");
            text = error.to_string();
        }
        for part in [
            "is being compiled",
            "s of processor time of 480 s at most",
            "that goes on",
            "lighter precompile",
        ] {
            assert!(text.contains(part), "{text}");
        }
        fs::write(&go_on, "").unwrap();
        let (_, is_new) = holder.join().unwrap().unwrap();
        assert!(is_new);
    });
    let (_, is_new) = hasty.precompile(source(), &as_command).unwrap();
    assert!(!is_new);
}

fn programs_wait_for_their_turn() {
    let node = Node::new();
    let limits = CacheLimits {
        at_a_time: 1,
        ..CacheLimits::default()
    };
    let usual = cache(&node, limits.clone());
    compile(&node, &usual, HELLO).unwrap();
    let (slow, go_on) = slow_compiler(&node);
    let slow = ArtifactCache::new(node.cache(), slow).with_limits(limits);
    let source = |number| {
        let path = node.folder.path().join(format!("{number}.wasm"));
        fs::write(&path, wat::parse_str(numbered(number)).unwrap()).unwrap();
        File::open(path).unwrap()
    };
    let (first, second) = (source(1), source(2));
    std::thread::scope(|scope| {
        let holder = scope.spawn(move || slow.precompile(first, &as_command));
        let turns = node.cache().join("turns");
        let is_running = || {
            let names = fs::read_dir(&turns).into_iter().flatten().flatten();
            names
                .map(|entry| entry.file_name().into_string().unwrap())
                .any(|name| name.ends_with(".running"))
        };
        while !is_running() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let waiting = scope.spawn(|| usual.precompile(second, &as_command));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished());
        fs::write(&go_on, "").unwrap();
        holder.join().unwrap().unwrap();
        waiting.join().unwrap().unwrap();
    });
}

fn a_failure_is_not_repeated_for_a_while() {
    let node = Node::new();
    // Valid in its frame, and in nothing else.
    let mut bytes = wat::parse_str(r#"(module (func (export "_start") nop nop nop))"#).unwrap();
    let nop = bytes.windows(3).position(|bytes| bytes == [1, 1, 1]);
    bytes[nop.unwrap()] = 0xff;
    let program = node.program(&bytes).compiler(counting_compiler(&node));
    let first = program.run().stderr;
    let second = program.run().stderr;
    assert_eq!(compilations(&node), 1);
    assert!(second.starts_with(first.trim_end()), "{second}");
    assert!(second.contains("this was found"), "{second}");
    // With other limits it is tried again.
    let limits = CacheLimits {
        seconds: 100,
        ..CacheLimits::default()
    };
    let file = File::open(&program.file).unwrap();
    let cache = ArtifactCache::new(node.cache(), counting_compiler(&node)).with_limits(limits);
    let error = cache.precompile(file, &as_command).unwrap_err().to_string();
    assert!(!error.contains("this was found"), "{error}");
    assert_eq!(compilations(&node), 2);
    // What the host is to blame for is.
    let other = node.text(HELLO).compiler("/no/lighter-compiler");
    for _ in 0..2 {
        let error = other.run().stderr;
        assert!(!error.contains("this was found"), "{error}");
    }
    assert_eq!(node.text(HELLO).run().stdout, "hello\n");
}

/// A module with that many bytes of data.
pub fn long(bytes: usize) -> String {
    let pages = bytes.div_ceil(1 << 16);
    let data = "x".repeat(bytes);
    format!(r#"(module (memory {pages}) (data (i32.const 0) "{data}") (func (export "_start")))"#)
}

/// A module that takes long to compile.
fn laborious(functions: usize) -> String {
    let step = "(local.set 0 (i64.mul (i64.add (local.get 0) (local.get 1)) (i64.rotl (local.get 1) (local.get 0))))";
    let body = step.repeat(200);
    let mut text = "(module (func (export \"_start\"))".to_owned();
    for _ in 0..functions {
        text.push_str(&format!(
            "(func (param i64 i64) (result i64) {body} (local.get 0))"
        ));
    }
    text + ")"
}

fn too_little_memory_is_named() {
    let node = Node::new();
    let limits = CacheLimits {
        memory: 48 << 20,
        ..CacheLimits::default()
    };
    for module in [long(64 << 20), laborious(3000)] {
        let error = compile(&node, &cache(&node, limits.clone()), &module).unwrap_err();
        assert!(error.contains("more than 48 MiB of memory"), "{error}");
        assert!(error.contains("option `memory`"), "{error}");
    }
    assert!(sources(&usual(&node)).is_empty());
}

fn too_little_time_is_named() {
    let node = Node::new();
    let limits = CacheLimits {
        seconds: 1,
        ..CacheLimits::default()
    };
    let error = compile(&node, &cache(&node, limits), &laborious(20_000)).unwrap_err();
    assert!(error.contains("longer than 1 s"), "{error}");
    assert!(error.contains("option `seconds`"), "{error}");
}

fn too_much_code_is_named() {
    let node = Node::new();
    let limits = CacheLimits {
        bytes: 1 << 20,
        ..CacheLimits::default()
    };
    let error = compile(&node, &cache(&node, limits), &long(4 << 20)).unwrap_err();
    assert!(error.contains("longer than 1 MiB"), "{error}");
    assert!(error.contains("option `bytes`"), "{error}");
}

fn the_node_can_be_tried_out() {
    let node = Node::new();
    let cache = usual(&node);
    cache.check().unwrap();
    for _ in 0..2 {
        cache.try_out().unwrap();
        assert!(sources(&cache).is_empty());
    }
    let broken = ArtifactCache::new(node.cache(), "/no/compiler".into());
    assert!(broken.try_out().is_err());
    let outcome = finish(node.text(HELLO).spawn(Stdio::null()));
    assert_eq!(outcome.stdout, "hello\n");
}
