//! The repository keeps its own rules.

// clippy.toml allows `unwrap` in tests, but not in their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The maximum number of lines of a source file.
const MAX_LINES: usize = 500;

/// The maximum number of lines of a program, which only calls the library.
const MAX_PROGRAM_LINES: usize = 10;

/// The only folders that may have `unsafe` code.
const MAY_BE_UNSAFE: [&str; 1] = ["crates/dsm-core/src/sys/"];

/// The folders of the sources of programs and libraries.
const SOURCES: [&str; 2] = ["src/", "crates/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository, as a path from its root, without files that were built or
/// downloaded.
fn files() -> Vec<String> {
    let mut folders = vec![root().to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let (path, kind) = entry
                .map(|entry| (entry.path(), entry.file_type().unwrap()))
                .unwrap();
            let skipped = ["target", ".git", "corpus", "artifacts", "__pycache__"];
            if kind.is_dir() && !skipped.iter().any(|name| path.ends_with(name)) {
                folders.push(path);
            } else if kind.is_file() {
                found.push(
                    path.strip_prefix(root())
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn source_files() -> Vec<String> {
    SOURCES
        .iter()
        .flat_map(|folder| rust_files(folder))
        .collect()
}

fn rust_files(folder: &str) -> Vec<String> {
    let rust = |path: &String| {
        Path::new(path)
            .extension()
            .is_some_and(|extension| extension == "rs")
    };
    files()
        .into_iter()
        .filter(|path| path.starts_with(folder) && rust(path))
        .collect()
}

/// The line without its comment. It also cuts a `//` inside a string, after which no line has a
/// word that these tests look for.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether `text` has `word` as a whole word, and not in quotes.
fn has_word(text: &str, word: &str) -> bool {
    let is_part =
        |character: char| character.is_alphanumeric() || character == '_' || character == '"';
    text.split(|character| !is_part(character))
        .any(|found| found == word)
}

fn has_unsafe_code(path: &str) -> bool {
    read(path)
        .lines()
        .any(|line| has_word(code(line), "unsafe"))
}

/// The only files that may use sockets: the transport, the calls of it that are `unsafe`, and the
/// client of syslog, which is no peer.
const MAY_USE_SOCKETS: [&str; 4] = [
    "crates/dsm-core/src/net/",
    "crates/dsm-core/src/sys/socket.rs",
    "crates/dsm-core/src/sys/region.rs",
    "src/logging/syslog.rs",
];

/// What code that opens or uses the socket of a peer contains.
const SOCKET_WORDS: [&str; 14] = [
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "UnixListener",
    "UdpSocket",
    "ToSocketAddrs",
    "to_socket_addrs",
    "getaddrinfo",
    "recvfrom",
    "recvmsg",
    "sendto",
    "sendmsg",
    "setsockopt",
    "getsockopt",
];

/// Whether a line of code uses a socket. The flags of a call, which are passed on to the transport,
/// are none.
fn uses_socket(line: &str) -> bool {
    SOCKET_WORDS.iter().any(|word| has_word(line, word))
        || line.contains("libc::recv")
        || line.contains("libc::send")
        || line.contains("sys::socket::") && !line.ends_with("sys::socket::MsgFlags;")
}

#[test]
fn sockets_of_peers_are_used_in_the_transport_only() {
    let may = |path: &String| {
        MAY_USE_SOCKETS
            .iter()
            .any(|allowed| path.starts_with(allowed))
    };
    for path in source_files().into_iter().filter(|path| !may(path)) {
        let text = read(&path);
        // Unit tests play the peer.
        let program = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let used = program.lines().map(code).find(|line| uses_socket(line));
        assert!(
            used.is_none(),
            "{path} uses a socket, for which there is dsm_core::net: {used:?}"
        );
    }
    for allowed in MAY_USE_SOCKETS {
        let files = rust_files(allowed);
        let uses = |path: &String| read(path).lines().map(code).any(uses_socket);
        assert!(files.iter().any(uses), "{allowed} uses no socket");
    }
}

#[test]
fn a_folder_that_may_have_unsafe_code_has_some() {
    for folder in MAY_BE_UNSAFE {
        let has_some = rust_files(folder).iter().any(|path| has_unsafe_code(path));
        assert!(
            has_some,
            "{folder} has no such code: remove it from MAY_BE_UNSAFE"
        );
    }
}

#[test]
fn unsafe_code_is_only_in_the_folders_that_may_have_it() {
    for path in rust_files("") {
        if MAY_BE_UNSAFE.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            assert!(
                !has_word(code(line), "unsafe"),
                "{path}:{}: {line}",
                number + 1
            );
        }
    }
}

#[test]
fn no_source_file_is_too_long() {
    for path in source_files() {
        let lines = read(&path).lines().count();
        assert!(
            lines <= MAX_LINES,
            "{path} has {lines} lines, more than {MAX_LINES}: split it by concept"
        );
    }
}

#[test]
fn the_programs_only_call_the_library() {
    let programs = rust_files("src/bin/");
    assert!(!programs.is_empty());
    for path in programs {
        let lines = read(&path).lines().count();
        assert!(
            lines <= MAX_PROGRAM_LINES,
            "{path} has {lines} lines, more than {MAX_PROGRAM_LINES}: move code to the library"
        );
    }
}

#[test]
fn the_root_of_the_programs_only_names_its_modules() {
    let names = |line: &str| {
        let statement = line.strip_prefix("pub ").unwrap_or(line);
        ["mod ", "use "]
            .iter()
            .any(|word| statement.starts_with(word))
            && statement.ends_with(';')
    };
    for line in read("src/lib.rs").lines().map(|line| code(line).trim()) {
        assert!(
            line.is_empty() || line.starts_with('#') || names(line),
            "src/lib.rs: {line}"
        );
    }
}

#[test]
fn every_source_file_begins_with_a_module_comment() {
    for path in source_files()
        .into_iter()
        .chain(rust_files("tests/"))
        .chain(rust_files("benches/"))
    {
        assert!(
            read(&path).starts_with("//!"),
            "{path} does not begin with a module comment (//!)"
        );
    }
}

#[test]
fn nothing_is_left_to_do_in_a_comment() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    for path in files()
        .iter()
        .filter(|path| *path != "LICENSE" && *path != "Cargo.lock")
    {
        // A binary file has no comments.
        let Ok(text) = std::fs::read_to_string(root().join(path)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let left = words.iter().find(|word| has_word(line, word));
            assert!(left.is_none(), "{path}:{}: {line}", number + 1);
        }
    }
}

/// The test targets: each is a folder, whose `main.rs` names its modules.
const TEST_TARGETS: [&str; 6] = [
    "cli",
    "client",
    "packaging",
    "segment",
    "server",
    "snapshot",
];

#[test]
fn the_tests_are_six_targets_and_every_file_of_them_is_a_module() {
    let of_target = |path: &str| {
        TEST_TARGETS
            .into_iter()
            .find(|target| path.starts_with(&format!("tests/{target}/")))
    };
    for path in rust_files("tests/")
        .into_iter()
        .filter(|path| !path.starts_with("tests/support/"))
    {
        // A file directly in tests/, or another folder with a main.rs, would be a seventh program
        // to link.
        let target = of_target(&path)
            .unwrap_or_else(|| panic!("{path} is not in a folder of {TEST_TARGETS:?}"));
        let module = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        let named =
            read(&format!("tests/{target}/main.rs")).contains(&format!("\nmod {module};\n"));
        // Cargo does not report a file that is no module: its tests would never run.
        assert!(
            named || module == "main",
            "tests/{target}/main.rs does not name the module {module}"
        );
        let elsewhere = concat!("#[", "path");
        assert!(
            !read(&path).contains(elsewhere),
            "{path} includes a file of another module, which is then compiled twice"
        );
    }
}

/// Words and phrases that do not belong in the repository: most hide who acts. The first letter of
/// each is apart, so that this list does not find itself.
const UNWANTED_WORDS: [&str; 14] = [
    concat!("w", "hoever"),
    concat!("n", "obody"),
    concat!("s", "omebody"),
    concat!("s", "tands still"),
    concat!("s", "tand still"),
    concat!("s", "tood still"),
    concat!("g", "oes on"),
    concat!("g", "o on"),
    concat!("w", "ent on"),
    concat!("m", "eanwhile"),
    concat!("o", "nce more"),
    concat!("g", "ives way"),
    concat!("g", "ive way"),
    concat!("o", "f its own"),
];

/// The words of `text` in lower case, with one space before and after each, also across the ends of
/// lines and of comment lines. The end of a sentence is the word `.`.
fn words(text: &str) -> String {
    let mut words = String::from(" ");
    for character in text.chars().flat_map(char::to_lowercase) {
        if character.is_alphanumeric() {
            words.push(character);
            continue;
        }
        if !words.ends_with(' ') {
            words.push(' ');
        }
        if ".:;!?(){}".contains(character) {
            words.push_str(". ");
        }
    }
    words + " "
}

#[test]
fn words_are_found_wherever_a_line_ends() {
    assert_eq!(
        words("/// One\n    /// Two_three, four.\n// Five"),
        " one two three four . five "
    );
}

#[test]
fn the_words_that_do_not_belong_here_stay_away() {
    // These two come from others, and the third describes the past.
    let others = ["LICENSE", "Cargo.lock", "CHANGELOG.md"];
    let mut found = Vec::new();
    for path in files() {
        // A file that is not text has no words.
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else {
            continue;
        };
        let text = words(&text);
        for unwanted in UNWANTED_WORDS {
            if !others.contains(&path.as_str()) && text.contains(&format!(" {unwanted} ")) {
                found.push(format!("{path}: {unwanted:?}"));
            }
        }
    }
    assert!(
        found.is_empty(),
        "name who does what instead:\n{}",
        found.join("\n")
    );
}

/// The item that a line of code begins: its keyword and its name, as `("struct", "Segment")`.
fn item(line: &str) -> Option<(&str, &str)> {
    let is_modifier =
        |word: &&str| word.starts_with("pub") || word.ends_with(')') || *word == "unsafe";
    let mut words = line.split_whitespace().skip_while(is_modifier);
    let (keyword, name) = (words.next()?, words.next().unwrap_or_default());
    let end = name.find(|character: char| !character.is_alphanumeric() && character != '_');
    Some((keyword, &name[..end.unwrap_or(name.len())]))
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Whether a line with this indentation, after these lines, is directly in an `impl` or a `trait`.
/// The code is formatted: the enclosing item begins at the last line with less indentation.
fn is_associated(before: &[&str], line: usize) -> bool {
    let outside = before
        .iter()
        .rev()
        .filter(|before| indentation(before) < line);
    let mut keywords = outside
        .filter_map(|line| item(line))
        .map(|(keyword, _)| keyword);
    let is_impl = |keyword: &str| keyword.starts_with("impl") || keyword == "trait";
    keywords
        .find(|keyword| is_impl(keyword) || ["fn", "mod"].contains(keyword))
        .is_some_and(is_impl)
}

/// The names of the types that a file defines: structs, enums, unions, traits and type aliases, but
/// not the associated types of an `impl` or a `trait`.
fn defined_types(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().map(code).collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some((keyword, name)) = item(line) else {
            continue;
        };
        let is_type = match keyword {
            "struct" | "enum" | "union" | "trait" => true,
            "type" => !is_associated(&lines[..number], indentation(line)),
            _ => false,
        };
        if is_type && name.starts_with(|first: char| first.is_ascii_uppercase()) {
            found.push(name);
        }
    }
    found
}

#[test]
fn the_types_of_a_file_are_found() {
    let text = concat!(
        "pub(crate) struct A<T> {\n    type_: T,\n}\n// enum B\nimpl<T> C for A<T>\nwhere\n    T: E,\n",
        "{\n    type D = u8;\n}\nfn f() {\n    type G = u8;\n}\npub trait H: E {\n    type I;\n}\n",
    );
    assert_eq!(defined_types(text), ["A", "G", "H"]);
}

#[test]
fn no_two_types_have_the_same_name() {
    let sources: Vec<(String, String)> = rust_files("")
        .into_iter()
        .map(|path| (read(&path), path))
        .collect();
    let mut paths: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (text, path) in &sources {
        for name in defined_types(text) {
            paths.entry(name).or_default().push(path);
        }
    }
    let duplicates: Vec<String> = paths
        .into_iter()
        .filter(|(_, paths)| paths.len() > 1)
        .map(|(name, paths)| format!("{name}: {}", paths.join(" ")))
        .collect();
    assert!(
        duplicates.is_empty(),
        "{} names of types are defined more than once; add a word that says whose each type is:\n{}",
        duplicates.len(),
        duplicates.join("\n")
    );
}

/// The packages of the workspace: the folder of each, and the folders of its code.
const PACKAGES: [(&str, &[&str]); 8] = [
    ("", &["src/", "tests/", "examples/"]),
    ("crates/dsm-core/", &["crates/dsm-core/"]),
    ("crates/dsm-config/", &["crates/dsm-config/"]),
    ("crates/dsm-client/", &["crates/dsm-client/"]),
    ("crates/dsm-snapshot/", &["crates/dsm-snapshot/"]),
    ("benches/", &["benches/"]),
    ("fuzz/", &["fuzz/"]),
    ("tests/support/", &["tests/support/"]),
];

fn manifest(folder: &str) -> toml::Table {
    read(&format!("{folder}Cargo.toml")).parse().unwrap()
}

/// The names of a package's dependencies and dev-dependencies.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let names = |table: &str| {
        manifest
            .get(table)
            .and_then(toml::Value::as_table)
            .map(|table| table.keys().cloned())
    };
    ["dependencies", "dev-dependencies"]
        .into_iter()
        .filter_map(names)
        .flatten()
        .collect()
}

#[test]
fn every_package_of_the_workspace_is_in_the_list() {
    let manifests = files()
        .into_iter()
        .filter(|path| path == "Cargo.toml" || path.ends_with("/Cargo.toml"));
    let folders: BTreeSet<String> = manifests
        .map(|path| path.replace("Cargo.toml", ""))
        .collect();
    assert_eq!(
        folders,
        PACKAGES
            .iter()
            .map(|(folder, _)| (*folder).to_owned())
            .collect()
    );
}

#[test]
fn every_dependency_is_used() {
    for (folder, sources) in PACKAGES {
        let code: String = sources
            .iter()
            .flat_map(|folder| rust_files(folder))
            .map(|path| read(&path))
            .collect();
        for name in dependencies(folder) {
            assert!(
                has_word(&code, &name.replace('-', "_")),
                "{folder}Cargo.toml has the dependency {name}, which no code uses: remove it"
            );
        }
    }
}

/// Whether a dependency is a package of this workspace. The tests use dsm-test-support as
/// `support`.
fn is_own(name: &str) -> bool {
    name.starts_with("dsm-") || name == "support"
}

#[test]
fn every_dependency_has_its_reason_in_contributing() {
    let all: BTreeSet<String> = PACKAGES
        .iter()
        .flat_map(|(folder, _)| dependencies(folder))
        .collect();
    let used: BTreeSet<String> = all.into_iter().filter(|name| !is_own(name)).collect();
    let text = read("CONTRIBUTING.md");
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with("Dependencies"))
        .expect("a section on dependencies");
    let explained: BTreeSet<String> = section
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(name, _)| name.to_owned())
        })
        .collect();
    assert_eq!(
        used, explained,
        "the manifests and the table in CONTRIBUTING.md differ"
    );
}

/// The crates of this workspace that a package depends on, without its dev-dependencies.
fn own_dependencies(folder: &str) -> BTreeSet<String> {
    let names = manifest(folder)["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .cloned()
        .collect::<Vec<_>>();
    names
        .into_iter()
        .filter(|name| name.starts_with("dsm-"))
        .collect()
}

#[test]
fn the_libraries_depend_on_each_other_in_one_direction() {
    for (name, may) in [
        ("dsm-core", &[] as &[&str]),
        ("dsm-config", &["dsm-core"]),
        ("dsm-client", &["dsm-config", "dsm-core"]),
        ("dsm-snapshot", &["dsm-config", "dsm-core"]),
    ] {
        assert_eq!(
            own_dependencies(&format!("crates/{name}/")),
            may.iter().map(|name| (*name).to_owned()).collect(),
            "{name}"
        );
    }
}

/// The maximum number of crates that are not of this workspace in the dependencies of dsm-client,
/// and the options of cargo: with support of mcomp.cfg, and without.
const MAX_FOREIGN_CRATES: [(usize, &[&str]); 2] = [(36, &[]), (26, &["--no-default-features"])];

#[test]
fn the_client_library_has_few_foreign_dependencies() {
    for (most, features) in MAX_FOREIGN_CRATES {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = std::process::Command::new(cargo);
        command.args([
            "tree",
            "--locked",
            "--offline",
            "--package",
            "dsm-client",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ]);
        let tree = command.args(features).current_dir(root()).output().unwrap();
        assert!(
            tree.status.success(),
            "{}",
            String::from_utf8_lossy(&tree.stderr)
        );
        let tree = String::from_utf8(tree.stdout).unwrap();
        let names = tree
            .lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|name| !name.is_empty());
        let foreign: BTreeSet<&str> = names.filter(|name| !name.starts_with("dsm-")).collect();
        assert!(foreign.contains("libc"), "{tree}");
        assert!(
            foreign.len() <= most,
            "{} foreign crates, more than {most}: {foreign:?}",
            foreign.len()
        );
        for unwanted in [
            "cc",
            "clap",
            "zstd-sys",
            "indicatif",
            "syslog",
            "daemonize",
            "sd-notify",
        ] {
            assert!(!foreign.contains(unwanted), "{unwanted} with {features:?}");
        }
    }
}

#[test]
fn the_oldest_compiler_is_the_same_everywhere() {
    let manifest = manifest("");
    let version = manifest["workspace"]["package"]["rust-version"]
        .as_str()
        .unwrap()
        .to_owned();
    for path in ["README.md", "CONTRIBUTING.md"] {
        assert!(
            read(path).contains(&format!("Rust {version}")),
            "{path} does not say Rust {version}"
        );
    }
}

#[test]
fn every_link_to_a_file_has_a_target() {
    let markdown = |path: &&String| {
        Path::new(path)
            .extension()
            .is_some_and(|extension| extension == "md")
    };
    for path in files().iter().filter(markdown) {
        let folder = root().join(path).parent().map(PathBuf::from).unwrap();
        for target in read(path)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next().map(str::to_owned))
        {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.is_empty() || file.contains("://");
            assert!(
                elsewhere || folder.join(file).exists(),
                "{path} links to {target}, which does not exist"
            );
        }
    }
}

/// The number of lines before a command that must say that it deletes memory.
const WARNING_LINES: usize = 6;

#[test]
fn a_documented_command_that_removes_memory_is_said_to_delete_it() {
    let documents = |path: &String| {
        ["README.md", "etc/mcomp.cfg"].contains(&path.as_str())
            || ["docs/", "man/"]
                .iter()
                .any(|folder| path.starts_with(folder))
                && !path.contains(".svg")
    };
    let mut found = 0;
    for path in files().into_iter().filter(documents) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if !(line.contains("rm -") || line.contains("rm /")) || !line.contains("/dev/shm/") {
                continue;
            }
            found += 1;
            let before = &lines[number.saturating_sub(WARNING_LINES)..=number];
            let warns = before.iter().any(|line| line.contains("delete"));
            assert!(
                warns,
                "{path}:{}: the {WARNING_LINES} lines before do not say \"delete\": {line}",
                number + 1
            );
        }
    }
    assert!(found > 3, "only {found} such commands were found");
}

#[test]
fn a_memory_that_grows_to_more_machines_loses_nothing() {
    let readme = read("README.md");
    let (_, steps) = readme.split_once("## On several machines\n").unwrap();
    let (steps, _) = steps.split_once("\n### ").unwrap();
    let config = read("etc/mcomp.cfg");
    let (_, comments) = config.split_once("# To grow to N machines:\n").unwrap();
    let (comments, _) = comments.split_once("\n# The memory then has").unwrap();
    for steps in [steps, comments] {
        assert!(steps.contains("systemctl restart dsmd"), "{steps}");
        assert!(
            !steps.contains("rm ") && !steps.contains("--reset"),
            "a step deletes memory: {steps}"
        );
    }
}

/// The Debian architectures for which `crates/dsm-core/src/sys/` compiles: Linux, 64 bits,
/// little-endian, with Rust's standard library.
const ARCHITECTURES: [&str; 6] = [
    "amd64", "arm64", "loong64", "mips64el", "ppc64el", "riscv64",
];

#[test]
fn the_packages_are_built_where_the_programs_compile() {
    let control = read("packaging/debian/control");
    let fields: Vec<_> = control
        .lines()
        .filter_map(|line| line.strip_prefix("Architecture: "))
        .collect();
    assert_eq!(fields.len(), 2, "dsmd and dsmctl");
    for field in fields {
        assert_eq!(field.split(' ').collect::<Vec<_>>(), ARCHITECTURES);
    }
}

/// The words in backquotes in a document.
fn quoted(text: &str) -> Vec<&str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

#[test]
fn every_source_file_and_function_that_a_document_names_exists() {
    let sources = rust_files("");
    let code: String = sources.iter().map(|path| read(path)).collect();
    let mut named = [0, 0];
    for path in [
        "docs/design.md",
        "docs/agent-protocol.md",
        "docs/threat-model.md",
        "CONTRIBUTING.md",
    ] {
        for word in quoted(&read(path)) {
            // A path may begin inside the tree, as `segment/gate.rs`.
            let is_source = Path::new(word)
                .extension()
                .is_some_and(|extension| extension == "rs");
            // Capital letters are a placeholder.
            let is_pattern =
                |character: char| "* ".contains(character) || character.is_ascii_uppercase();
            if is_source && !word.contains(is_pattern) {
                named[0] += 1;
                let is_named =
                    |source: &String| source == word || source.ends_with(&format!("/{word}"));
                assert!(
                    sources.iter().any(is_named),
                    "{path} names {word}, which does not exist"
                );
            }
            // For example `Shared::apply`.
            if let Some((owner, function)) = word.split_once("::")
                && owner.starts_with(|first: char| first.is_ascii_uppercase())
                && owner.chars().all(char::is_alphanumeric)
                && function
                    .chars()
                    .all(|character| character.is_ascii_lowercase() || character == '_')
            {
                named[1] += 1;
                assert!(
                    code.contains(&format!("fn {function}(")),
                    "{path} names {word}, and no function has that name"
                );
                assert!(
                    has_word(&code, owner),
                    "{path} names {word}, and no type has the name {owner}"
                );
            }
        }
    }
    assert!(
        named[0] > 50 && named[1] > 20,
        "{named:?} files and functions were found"
    );
}
