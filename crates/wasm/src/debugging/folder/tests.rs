use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn subject(id: &str) -> Subject {
    Subject {
        namespace: "k8s.io".to_owned(),
        id: id.to_owned(),
        pod: Some("default/web/app".to_owned()),
        program: "/app.wasm".to_owned(),
    }
}

fn folder() -> (tempfile::TempDir, DebugFolder) {
    let parent = tempfile::tempdir().unwrap();
    let folder = DebugFolder::new(parent.path().join("debug"));
    (parent, folder)
}

/// A record of a container that has ended, with a profile of so many bytes.
fn ended(folder: &DebugFolder, id: &str, bytes: u64) {
    let record = folder.record(&subject(id), &Tool::ALL, u64::MAX).unwrap();
    record.profile.as_ref().unwrap().set_len(bytes).unwrap();
    // Modification times are compared.
    std::thread::sleep(std::time::Duration::from_millis(10));
}

fn ids(folder: &DebugFolder) -> Vec<String> {
    let list = folder.list().unwrap();
    list.into_iter().map(|each| each.subject.id).collect()
}

#[test]
fn only_what_was_asked_for_is_opened_and_only_what_was_written_stays() {
    let (_parent, folder) = folder();
    let mut record = folder.record(&subject("a"), &Tool::ALL, 1 << 20).unwrap();
    record.profile.as_mut().unwrap().write_all(b"f 1").unwrap();
    // The process is still there.
    folder.settle("k8s.io", "a").unwrap();
    let path = record.core_dump.as_ref().unwrap().0.clone();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert!(folder.list().unwrap()[0].in_use);
    drop(record);
    folder.settle("k8s.io", "a").unwrap();
    assert!(!path.exists());
    let other = folder.record(&subject("b"), &[Tool::CoreDump], 1 << 20);
    assert!(other.unwrap().profile.is_none());
    folder.settle("k8s.io", "b").unwrap();
    let list = folder.list().unwrap();
    assert_eq!(list[0].files, [(Tool::Profile, 3)]);
    assert_eq!(list[0].subject, subject("a"));
    assert!(!list[0].in_use);
    folder.remove(&list[0]).unwrap();
    assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 0);
}

#[test]
fn each_start_has_a_folder_of_its_own_and_empty_ones_go() {
    let (_parent, folder) = folder();
    ended(&folder, "a", 0);
    ended(&folder, "a", 5);
    ended(&folder, "a", 6);
    folder.settle("k8s.io", "a").unwrap();
    let list = folder.list().unwrap();
    let names: Vec<_> = list
        .iter()
        .map(|each| each.folder.file_name().unwrap())
        .collect();
    assert_eq!(names, ["3", "2"]);
    ended(&folder, "b", 0);
    folder.settle("k8s.io", "b").unwrap();
    folder.settle("k8s.io", "never-there").unwrap();
    assert_eq!(ids(&folder), ["a", "a"]);
}

#[test]
fn the_oldest_make_room_but_not_what_is_in_use() {
    let (_parent, folder) = folder();
    let held = folder
        .record(&subject("held"), &Tool::ALL, u64::MAX)
        .unwrap();
    held.profile.as_ref().unwrap().set_len(1 << 20).unwrap();
    for id in ["a", "b", "c"] {
        ended(&folder, id, 1 << 20);
    }
    let record = folder.record(&subject("d"), &Tool::ALL, 2 << 20).unwrap();
    drop(record);
    assert_eq!(ids(&folder), ["d", "c", "held"]);
}

#[test]
fn a_folder_that_others_can_enter_is_refused() {
    let (_parent, folder) = folder();
    fs::create_dir(&folder.path).unwrap();
    fs::set_permissions(&folder.path, fs::Permissions::from_mode(0o755)).unwrap();
    let error = folder.record(&subject("a"), &[], 1).unwrap_err();
    assert!(error.to_string().contains("mode 700"), "{error}");
    assert!(folder.list().is_err());
}
