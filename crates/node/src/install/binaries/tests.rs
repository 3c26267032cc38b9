use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, symlink};

use lighter_core::PROGRAM_MARK;
use proptest::prelude::*;

use super::*;

/// A program of Lighter.
fn program(rest: &[u8]) -> Vec<u8> {
    [b"\x7fELF".as_slice(), &PROGRAM_MARK, rest].concat()
}

fn source(bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in NAMES {
        fs::write(folder.path().join(name), program(bytes)).unwrap();
    }
    folder
}

fn put(bytes: &[u8], prefix: &Path, on_foreign: OnForeign) -> Result<Installed, String> {
    install(source(bytes).path(), prefix, &[], on_foreign)
}

/// What a record says of the programs.
fn recorded(prefix: &Path) -> Vec<(String, String)> {
    let names = NAMES.iter();
    names
        .filter_map(|name| Some(((*name).to_owned(), installed(prefix, name)?)))
        .collect()
}

/// All in a folder: bytes or the target of a link, and the mode.
fn contents(folder: &Path) -> BTreeMap<OsString, (Vec<u8>, u32)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let bytes = match fs::read_link(&path) {
                Ok(target) => target.into_os_string().into_encoded_bytes(),
                Err(_) => fs::read(&path).unwrap_or_default(),
            };
            (entry.file_name(), (bytes, metadata.mode()))
        })
        .collect()
}

#[test]
fn programs_are_replaced_when_they_differ() {
    let prefix = tempfile::tempdir().unwrap();
    let install = |bytes| put(bytes, prefix.path(), OnForeign::Refuse).unwrap();
    let first = install(b"1");
    assert_eq!((first.changed.len(), first.folders.len()), (3, 1));
    let held = fs::File::open(prefix.path().join("bin").join(SHIM)).unwrap();
    assert!(install(b"1").changed.is_empty());
    let second = install(b"2");
    assert_eq!(second.changed.len(), 3);
    second.undo();
    assert!(
        installed(prefix.path(), SHIM).is_some(),
        "it was there before"
    );
    let mut old = Vec::new();
    io::Read::read_to_end(&mut &held, &mut old).unwrap();
    assert_eq!(old, program(b"1"), "what runs has its old file still");
    let programs = recorded(prefix.path());
    let removed = remove(prefix.path(), Owned::Recorded(&programs)).unwrap();
    assert_eq!(removed, Removed::default());
    assert_eq!(fs::read_dir(prefix.path().join("bin")).unwrap().count(), 0);
}

#[test]
fn a_missing_program_is_named_and_nothing_is_written() {
    let (from, prefix) = (source(b"1"), tempfile::tempdir().unwrap());
    fs::remove_file(from.path().join("lighter-compiler")).unwrap();
    let error = install(from.path(), prefix.path(), &[], OnForeign::Refuse).unwrap_err();
    assert!(error.contains("lighter-compiler: No such file"), "{error}");
    fs::write(from.path().join("lighter-compiler"), "\x7fELF").unwrap();
    let error = install(from.path(), prefix.path(), &[], OnForeign::SetAside).unwrap_err();
    assert!(error.contains("is no program of Lighter"), "{error}");
    assert!(!prefix.path().join("bin").exists());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test has children")]
fn a_place_that_cannot_be_taken_is_refused_and_nothing_changes() {
    let prefix = tempfile::tempdir().unwrap();
    let bin = prefix.path().join("bin");
    let shim = bin.join(SHIM);
    fs::create_dir(&bin).unwrap();
    let attempt = |on_foreign, reason: &str| {
        let before = contents(&bin);
        let error = put(b"1", prefix.path(), on_foreign).unwrap_err();
        assert!(error.contains(reason), "{reason}: {error}");
        assert_eq!(contents(&bin), before, "{reason}");
    };
    fs::create_dir(&shim).unwrap();
    attempt(OnForeign::SetAside, "it is a directory");
    fs::remove_dir(&shim).unwrap();
    fs::write(&shim, "of runwasi").unwrap();
    attempt(OnForeign::Refuse, "--replace-foreign");
    fs::write(backup(&shim), "of somebody").unwrap();
    attempt(OnForeign::SetAside, "is there already");
    fs::remove_file(backup(&shim)).unwrap();

    // A pod of the other runtime.
    fs::copy("/bin/sleep", &shim).unwrap();
    let mut running = std::process::Command::new(&shim)
        .arg("100")
        .spawn()
        .unwrap();
    attempt(OnForeign::SetAside, &format!("[{}]", running.id()));
    running.kill().unwrap();
    running.wait().unwrap();

    let other = fs::Permissions::from_mode(0o777);
    fs::set_permissions(&bin, other).unwrap();
    attempt(OnForeign::SetAside, "users other than root");
}

#[test]
fn what_was_put_there_since_stays() {
    let prefix = tempfile::tempdir().unwrap();
    let bin = prefix.path().join("bin");
    put(b"1", prefix.path(), OnForeign::Refuse).unwrap();
    let programs = recorded(prefix.path());
    fs::write(bin.join(SHIM), "of runwasi").unwrap();
    // Of Lighter, but not what this installation has put there.
    fs::write(bin.join("lighter"), program(b"2")).unwrap();
    let removed = remove(prefix.path(), Owned::Recorded(&programs)).unwrap();
    assert_eq!(removed.left, [bin.join(SHIM), bin.join("lighter")]);
    assert_eq!(contents(&bin).len(), 2);
    let removed = remove(prefix.path(), Owned::Marked).unwrap();
    assert_eq!(removed.left, [bin.join(SHIM)]);
    assert!(removed.lines()[0].contains("is not what was installed"));
    assert_eq!(fs::read_to_string(bin.join(SHIM)).unwrap(), "of runwasi");
}

#[test]
fn a_file_that_appears_meanwhile_is_not_overwritten() {
    let prefix = tempfile::tempdir().unwrap();
    let place = prefix.path().join(SHIM);
    let wanted = Wanted {
        name: SHIM,
        place: place.clone(),
        bytes: program(b"1"),
        found: Found::Nothing,
    };
    let file = files::prepare_program(&place, &wanted.bytes).unwrap();
    fs::write(&place, "of somebody").unwrap();
    let mut installed = Installed {
        changed: vec![SHIM],
        created: Vec::new(),
        set_aside: Vec::new(),
        folder: prefix.path().to_owned(),
        folders: Vec::new(),
    };
    let error = installed.publish(&wanted, file).unwrap_err();
    assert!(error.contains("meanwhile"), "{error}");
    installed.undo();
    assert_eq!(fs::read_to_string(&place).unwrap(), "of somebody");
}

/// What may stand at the place of a program.
#[derive(Clone, Debug)]
enum Standing {
    Nothing,
    Link(&'static str),
    File(Vec<u8>, u32),
}

fn standing() -> impl Strategy<Value = Standing> {
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    prop_oneof![
        Just(Standing::Nothing),
        prop::sample::select(vec!["../of-others", "nowhere", SHIM]).prop_map(Standing::Link),
        (bytes, prop::sample::select(vec![0o755, 0o4711, 0o600, 0]))
            .prop_map(|(bytes, mode)| Standing::File(bytes, mode)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever stood there: it is refused and unchanged, or set aside and back again.
    #[test]
    fn what_stood_there_before_is_there_afterwards(
        all in [standing(), standing(), standing()],
        upgrades in 0..3_u8,
        by_record: bool,
    ) {
        let prefix = tempfile::tempdir().unwrap();
        let bin = prefix.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(prefix.path().join("of-others"), "of others").unwrap();
        for (name, standing) in NAMES.iter().zip(&all) {
            let place = bin.join(name);
            match standing {
                Standing::Nothing => {}
                Standing::Link(target) => symlink(target, &place).unwrap(),
                Standing::File(bytes, mode) => {
                    fs::write(&place, bytes).unwrap();
                    fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
                }
            }
        }
        let before = contents(&bin);
        let refused = put(b"0", prefix.path(), OnForeign::Refuse);
        prop_assert_eq!(refused.is_err(), !before.is_empty());
        if refused.is_err() {
            prop_assert_eq!(&contents(&bin), &before);
        }
        for release in 0..=upgrades {
            put(&[release], prefix.path(), OnForeign::SetAside).unwrap();
            let file = fs::symlink_metadata(bin.join(SHIM)).unwrap();
            prop_assert_eq!((file.is_file(), file.mode() & 0o7777), (true, 0o755));
        }
        let programs = recorded(prefix.path());
        let owned = if by_record { Owned::Recorded(&programs) } else { Owned::Marked };
        let removed = remove(prefix.path(), owned).unwrap();
        prop_assert_eq!(removed.restored.len(), before.len());
        prop_assert!(removed.left.is_empty());
        prop_assert_eq!(contents(&bin), before);
        let others = fs::read_to_string(prefix.path().join("of-others")).unwrap();
        prop_assert_eq!(others, "of others");
    }
}
