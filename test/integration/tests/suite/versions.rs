//! Every containerd in the field: 1.6, 1.7 and 2.1 expect different answers of `start`.

use lighter_testkit::{Containerd, Image, Version};

fn runs_both_kinds(version: Version) {
    let containerd = Containerd::start(version);
    let (hello, busybox) = (Image::wasm("hello"), Image::busybox());
    containerd.import(&hello);
    containerd.import(&busybox);
    let leaks = containerd.leaks();
    assert_eq!(containerd.run(&hello).output().ok(), "Hello from Wasm\n");
    let output = containerd
        .run(&busybox)
        .arguments(["sh", "-c", "echo Linux; exit 7"])
        .output();
    output.exits(7);
    assert_eq!(output.stdout, "Linux\n");
    leaks.assert_none_since();
}

#[test]
fn containerd_1_6_of_debian() {
    runs_both_kinds(Version::Debian);
}

#[test]
fn containerd_1_7() {
    runs_both_kinds(Version::V1_7);
}

#[test]
fn containerd_2_1() {
    runs_both_kinds(Version::V2);
}
