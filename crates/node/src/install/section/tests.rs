use proptest::prelude::*;

use super::*;
use crate::install::effective::Effective;

fn full() -> Section {
    Section {
        runtime_path: Some("/opt/lighter/bin/containerd-shim-wasmtime-v1".into()),
        options: Some("/etc/lighter.toml".into()),
        systemd: true,
    }
}

fn set_plain(text: &str, syntax: Syntax) -> Edited {
    set_handler(text, syntax, &Section::default(), &[]).unwrap()
}

/// Compares with a file of `golden`; `GOLDEN=write` renews it.
#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/install/golden");
    let path = Path::new(folder).join(name);
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{name}");
}

/// Configurations as they are on nodes, by layout.
const CONFIGURATIONS: [(&str, &str, Syntax); 8] = [
    (
        "default-1.6",
        include_str!("../golden/default-1.6.toml"),
        Syntax::V2,
    ),
    (
        "default-1.7",
        include_str!("../golden/default-1.7.toml"),
        Syntax::V2,
    ),
    (
        "default-2.1",
        include_str!("../golden/default-2.1.toml"),
        Syntax::V3,
    ),
    ("debian", include_str!("../golden/debian.toml"), Syntax::V2),
    ("kind", include_str!("../golden/kind.toml"), Syntax::V2),
    (
        "minikube",
        include_str!("../golden/minikube.toml"),
        Syntax::V2,
    ),
    (
        "microk8s",
        include_str!("../golden/microk8s.toml"),
        Syntax::V2,
    ),
    ("empty", "", Syntax::V3),
];

#[test]
fn each_layout_gets_the_smallest_edit() {
    for (name, text, syntax) in CONFIGURATIONS {
        let section = Section {
            systemd: name == "minikube",
            ..Section::default()
        };
        let edited = set_handler(text, syntax, &section, &[]).unwrap();
        assert_golden(&format!("{name}.installed.toml"), &edited.text);
        assert_eq!(edited.previous, None);
        // Line by line, what was there is there still, in its order.
        let mut lines = edited.text.lines();
        for line in text.lines() {
            assert!(lines.any(|each| each == line), "{name} lost: {line}");
        }
        let again = set_handler(&edited.text, syntax, &section, &[]).unwrap();
        assert_eq!(again.text, edited.text, "{name}: a second time");
        if Syntax::of(text, syntax) == Ok(syntax) && !text.is_empty() {
            let removed = remove_handler(&edited.text, syntax, None, &[]).unwrap();
            assert_eq!(removed, text, "{name}");
        }
    }
}

#[test]
fn drop_ins_and_templates_have_the_section_alone() {
    assert_golden("drop-in-v2.toml", &Section::default().drop_in(Syntax::V2));
    assert_golden("drop-in-v3.toml", &full().drop_in(Syntax::V3));
    let template = set_in_template("", &full(), Syntax::V2);
    assert_golden("config.toml.tmpl", &template);
    assert_eq!(set_in_template(&template, &full(), Syntax::V2), template);
    let own = "{{ template \"base\" . }}\n[plugins.x]\na = {{ .B }}";
    let template = set_in_template(own, &Section::default(), Syntax::V3);
    assert!(template.starts_with(own), "{template}");
    assert_eq!(remove_from_template(&template), format!("{own}\n"));
}

#[test]
fn a_handler_of_somebody_else_is_completed_and_comes_back() {
    let text = "version = 2\n\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.wasmtime]\n\
                runtime_type = 'io.containerd.wasmtime.v1' # ours\npod_annotations = [\"a/*\"]\n";
    let edited = set_plain(text, Syntax::V2);
    assert!(edited.text.contains("v1' # ours\n"), "{}", edited.text);
    assert!(
        edited
            .text
            .contains("pod_annotations = [\"a/*\", \"lighter.dev/*\"]"),
        "{}",
        edited.text
    );
    let previous = edited.previous.unwrap();
    let removed = remove_handler(&edited.text, Syntax::V2, Some(&previous), &[]).unwrap();
    assert_eq!(removed.parse::<toml::Table>(), text.parse::<toml::Table>());
}

#[test]
fn handlers_that_would_be_lost_are_said_again() {
    let dump = Effective::parse(include_str!("../golden/default-1.7.toml")).unwrap();
    let mut kept = Kept {
        name: "runc".to_owned(),
        table: dump.spelled_out("runc"),
    };
    assert_eq!(kept.table.len(), 2, "runtime_type and sandbox_mode");
    let options = toml::Table::from_iter([("SystemdCgroup".to_owned(), true.into())]);
    kept.table.insert("options".to_owned(), options.into());
    let text = "version = 2\n# the end\n";
    let edited = set_handler(text, Syntax::V2, &Section::default(), &[kept]).unwrap();
    assert!(
        edited
            .text
            .contains("runtimes.runc.options]\nSystemdCgroup = true\n"),
        "{}",
        edited.text
    );
    let kept = ["runc".to_owned()];
    let removed = remove_handler(&edited.text, Syntax::V2, None, &kept).unwrap();
    assert_eq!(removed, text);
}

#[test]
fn what_cannot_be_edited_is_refused_with_the_reason() {
    for (text, reason) in [
        ("x = [", "no TOML"),
        ("[plugins.cri]\n", "migrate"),
        ("version = 1\n[plugins.cri]\n", "migrate"),
        ("version = 4\n", "version 4"),
        ("version = 2\nplugins = 3\n", "`plugins` is no table"),
    ] {
        let refused = set_handler(text, Syntax::V2, &Section::default(), &[]).unwrap_err();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

#[test]
fn what_a_handler_lacks_is_named() {
    let good = Handler {
        runtime_type: RUNTIME_TYPE.to_owned(),
        pod_annotations: vec![ANNOTATIONS.to_owned()],
        container_annotations: vec!["*".to_owned()],
        ..Handler::default()
    };
    assert!(Section::default().missing(&good).is_empty());
    assert_eq!(full().missing(&good).len(), 3);
    let bare = Section::default().missing(&Handler::default());
    assert_eq!(bare.len(), 3, "{bare:?}");
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "# [a-z \"\\[\\]=]{0,20}",
        "[a-z]{1,3}[0-9]{3} = (1|true|'x'|\\[ 'a' , 'b' \\]|\\{ a = 1 \\})( # [a-z]{0,5})?",
    ]
}

/// Configurations with comments, odd blanks, other plugins and handlers.
fn configuration() -> impl Strategy<Value = String> {
    let header = prop_oneof![
        Just("[grpc]".to_owned()),
        Just("[plugins]".to_owned()),
        Just("  [plugins.\"io.containerd.grpc.v1.cri\"]".to_owned()),
        Just("[plugins.\"io.containerd.grpc.v1.cri\".containerd]".to_owned()),
        Just("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes] # all".to_owned()),
        Just("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]".to_owned()),
        Just("  [plugins.\"io.containerd.grpc.v1.cri\".cni]".to_owned()),
    ];
    let table = (header, prop::collection::vec(line(), 0..4));
    let tables = prop::collection::vec(table, 0..6);
    (prop::collection::vec(line(), 0..3), tables).prop_map(|(first, tables)| {
        let mut lines = vec!["version = 2".to_owned()];
        lines.extend(first);
        for (header, inside) in tables {
            lines.push(header);
            lines.extend(inside);
        }
        lines.join("\n") + "\n"
    })
}

proptest! {
    #[test]
    fn what_is_put_in_and_taken_out_leaves_the_same_bytes(text in configuration(), keep: bool) {
        // Tables and keys may be there twice: that is no TOML.
        prop_assume!(text.parse::<toml::Table>().is_ok());
        let table = "a = 1
b = ['x']
[c]
d = true".parse().unwrap();
        let kept = Kept { name: "other".to_owned(), table };
        let kept = if keep { vec![kept] } else { vec![] };
        let edited = set_handler(&text, Syntax::V2, &full(), &kept).unwrap();
        let names: Vec<String> = kept.iter().map(|each| each.name.clone()).collect();
        let table = edited.text.parse::<toml::Table>().unwrap();
        let runtimes = &table["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
        prop_assert_eq!(runtimes["wasmtime"]["runtime_type"].as_str(), Some(RUNTIME_TYPE));
        let again = set_handler(&edited.text, Syntax::V2, &full(), &[]).unwrap();
        prop_assert_eq!(&again.text, &edited.text);
        let removed = remove_handler(&edited.text, Syntax::V2, None, &names).unwrap();
        prop_assert_eq!(removed, text);
    }

    #[test]
    fn templates_come_back(text in "[ -~\n]{0,200}\n") {
        let with = set_in_template(&text, &full(), Syntax::V3);
        prop_assert_eq!(remove_from_template(&with), text);
    }
}
