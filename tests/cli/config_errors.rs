//! Each error in mcomp.cfg is reported on one line with the file, line and column, what was found
//! and what is allowed.

use dsm_config::Compression;
use dsm_config::{Config, ConfigError, MAX_DIAGNOSTICS, MAX_FILE_SIZE, OnMemoryLoss, Origin};
use std::io::Write;
use std::path::Path;

const GOOD: &str = r#"k = "64MiB"
n = 2
[[server]]
address = "10.0.0.1:7411"
[[server]]
address = "10.0.0.2:7411"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("m.cfg"))
}

fn error(text: &str) -> String {
    parse(text).map_or_else(|error| error.to_string(), |_| panic!("accepted:\n{text}"))
}

/// The good file with one part replaced, or with `new` after its end when `old` is empty.
fn changed(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    if old.is_empty() {
        format!("{GOOD}{new}")
    } else {
        GOOD.replacen(old, new, 1)
    }
}

const SIZES: &str = "a size is a whole number, alone or with one of B, KiB, MiB, GiB, TiB, PiB (1024), kB, MB, GB, TB, PB (1000)";
const HOSTS: &str =
    "\"host:port\", where the host is a name, an IPv4 address, or an IPv6 address in brackets";

#[rustfmt::skip]
#[test]
fn an_error_names_its_line_and_column() {
    let k = "it must be a size that is a multiple of 4KiB, such as \"64MiB\"";
    let top = "keys known here are name, k, n, server, security, log, limits, client, snapshot, recovery";
    let duration = "it must be a duration from 100ms to 1h, such as \"5s\"";
    let long = "x".repeat(100);
    let cases: &[(&str, &str, String)] = &[
        // k
        ("k = \"64MiB\"\n", "", "1:1: k is missing: it must be a size that is a multiple of 4KiB, such as \"64MiB\"".into()),
        ("\"64MiB\"", "0", "1:5: k is 0 bytes: it must be a multiple of 4096, and at least 4096".into()),
        ("\"64MiB\"", "4097", "1:5: k is 4097 bytes: it must be a multiple of 4096, and at least 4096".into()),
        ("\"64MiB\"", "\"100 kB\"", "1:5: k is 100000 bytes: it must be a multiple of 4096, and at least 4096".into()),
        ("\"64MiB\"", "\"20000000000 GiB\"", "1:5: k is \"20000000000 GiB\": it is more than 2^64-1 bytes".into()),
        ("\"64MiB\"", "\"8192PiB\"", "1:5: k times n is 9223372036854775808 times 2, more than 2^63 bytes: make k or n smaller".into()),
        ("\"64MiB\"", "18446744073709547520", "1:5: k times n is 18446744073709547520 times 2, more than 2^63 bytes: make k or n smaller".into()),
        ("\"64MiB\"", "-4096", format!("1:5: k is -4096: {k}")),
        ("\"64MiB\"", "true", format!("1:5: k is true: write a number, or a text such as \"64MiB\"; {k}")),
        ("\"64MiB\"", "1.5", format!("1:5: k is 1.5: {k}")),
        ("\"64MiB\"", "[]", format!("1:5: k is an array: write a number, or a text such as \"64MiB\"; {k}")),
        ("\"64MiB\"", "\"64M\"", "1:5: k is \"64M\": the unit \"M\" is ambiguous: write \"MiB\" for 1024 or \"MB\" for 1000".into()),
        ("\"64MiB\"", "\"1.5GiB\"", format!("1:5: k is \"1.5GiB\": {SIZES}")),
        ("\"64MiB\"", "\"much\"", format!("1:5: k is \"much\": {SIZES}")),
        // n
        ("n = 2\n", "", "1:1: n is missing: it must be a whole number from 1 to 1024".into()),
        ("n = 2", "n = 3", "2:5: n is 3, but the number of [[server]] tables is 2: make them equal".into()),
        ("n = 2", "n = 0", "2:5: n is 0: it must be a whole number from 1 to 1024".into()),
        ("n = 2", "n = 0x10_000", "2:5: n is 0x10000: it must be a whole number from 1 to 1024".into()),
        ("n = 2", "n = \"2\"", "2:5: n is \"2\": write a number without quotes; it must be a whole number from 1 to 1024".into()),
        // name
        ("k =", "name = \"a/b\"\nk =", "1:8: name is \"a/b\": allowed are 1 to 64 characters of a-z, A-Z, 0-9, '-' and '_'".into()),
        ("k =", "name = 7\nk =", "1:8: name is 7: write a text in quotes; it must be 1 to 64 characters of a-z, A-Z, 0-9, '-' and '_'".into()),
        // the map
        ("10.0.0.2:7411", "10.0.0.1:7411", "6:11: server 1 has the address \"10.0.0.1:7411\" of server 0: each server needs its own".into()),
        ("10.0.0.2:7411", "10.0.0.2", "6:11: server.1.address is \"10.0.0.2\": the port is missing: write \"10.0.0.2:7411\"".into()),
        ("10.0.0.2:7411", "10.0.0.2:0", "6:11: server.1.address is \"10.0.0.2:0\": the port is \"0\": it must be 1 to 65535".into()),
        ("10.0.0.2:7411", "10.0.0.2:99999", "6:11: server.1.address is \"10.0.0.2:99999\": the port is \"99999\": it must be 1 to 65535".into()),
        ("10.0.0.2:7411", "fd00::2:7411", "6:11: server.1.address is \"fd00::2:7411\": write an IPv6 address in brackets, as in \"[fd00::1]:7411\"".into()),
        ("10.0.0.2:7411", "0.0.0.0:7411", "6:11: server.1.address is \"0.0.0.0:7411\": 0.0.0.0 does not name one machine: give the address that the others connect to".into()),
        ("\"10.0.0.2:7411\"", "7411", format!("6:11: server.1.address is 7411: write a text in quotes; it must be {HOSTS}")),
        ("address = \"10.0.0.2:7411\"\n", "", format!("5:1: server.1.address is missing: it must be {HOSTS}")),
        ("", "snapshot = \"10.0.0.2\"", "7:12: server.1.snapshot is \"10.0.0.2\": the port is missing: write \"10.0.0.2:7411\"".into()),
        ("", "public_key = \"short\"", "7:14: server.1.public_key is \"short\": it must be base64 of 44 to 1024 characters".into()),
        ("", "adress = 1", "7:1: unknown key \"adress\" in a [[server]]: did you mean address? The keys known here are address, snapshot, public_key".into()),
        // other tables
        ("", "[limits]\nconnections = 0", "8:15: limits.connections is 0: it must be a whole number from 1 to 4096".into()),
        ("", "[limits]\nconnections = 4097", "8:15: limits.connections is 4097: it must be a whole number from 1 to 4096".into()),
        ("", "[limits]\nthreads = 33", "8:11: limits.threads is 33: it must be a whole number from 1 to 32".into()),
        ("", "[limits]\nhello_timeout = 5", format!("8:17: limits.hello_timeout is 5: write a text in quotes; {duration}")),
        ("", "[limits]\nrequest_timeout = \"5\"", format!("8:19: limits.request_timeout is \"5\": {duration}")),
        ("", "[limits]\nshutdown_timeout = \"2h\"", format!("8:20: limits.shutdown_timeout is \"2h\": {duration}")),
        ("", "[limits]\nbuffer_memory = \"1MiB\"", "8:17: limits.buffer_memory is \"1MiB\": it must be a size from 8MiB to 1TiB".into()),
        ("", "[client]\ntimeout = \"1ms\"", "8:11: client.timeout is \"1ms\": it must be a duration from 10ms to 1h, such as \"5s\"".into()),
        ("", "[log]\nlevel = \"loud\"", "8:9: log.level is \"loud\": it must be one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\"".into()),
        ("", "[log]\noperations = false", "8:14: log.operations is false: write a text in quotes; it must be one of \"off\", \"writes\", \"all\"".into()),
        ("", "[log]\ndirectory = \"log\"", "8:13: log.directory is \"log\": it must be an absolute path".into()),
        ("", "[log]\ndirectory = \"/a\\u0000\"", "8:13: log.directory is \"/a\\0\": it must be an absolute path".into()),
        ("", "[snapshot]\ncompression = \"1\"", "8:15: snapshot.compression is \"1\": write a number without quotes, or \"none\"; it must be a level from 1 to 19, or \"none\"".into()),
        ("", "[snapshot]\ncompression = 20", "8:15: snapshot.compression is 20: it must be a level from 1 to 19, or \"none\"".into()),
        ("", "[snapshot]\ndirectory = 5", "8:13: snapshot.directory is 5: write a text in quotes; it must be an absolute path".into()),
        ("", "[limits]\nbuffer_memory = true", "8:17: limits.buffer_memory is true: write a number, or a text such as \"64MiB\"; it must be a size from 8MiB to 1TiB".into()),
        ("", "[limits]\nthreads = [1]", "8:11: limits.threads is an array: write a number without quotes; it must be a whole number from 1 to 32".into()),
        ("n = 2", "n = 2.0", "2:5: n is 2.0: it must be a whole number from 1 to 1024".into()),
        ("", "[security]\ntrusted_network = \"yes\"", "8:19: security.trusted_network is \"yes\": it must be true or false, without quotes".into()),
        // unknown keys, and keys in the wrong place
        ("k =", "K = 1\nk =", format!("1:1: unknown key \"K\" at the top of the file, before the first [table]: did you mean k? The {top}")),
        ("k =", "x = 1\nk =", format!("1:1: unknown key \"x\" at the top of the file, before the first [table]: the {top}")),
        ("k =", "connections = 1\nk =", format!("1:1: unknown key \"connections\" at the top of the file, before the first [table]: it belongs in [limits]; the {top}")),
        ("", "[security]\nname = \"a\"", "8:1: unknown key \"name\" in [security]: it belongs at the top of the file, before the first [table]; the keys known here are trusted_network".into()),
        ("", "[limit]", format!("7:2: unknown key \"limit\" at the top of the file, before the first [table]: did you mean limits? The {top}")),
        ("", "[log.disk]", "7:6: unknown key \"disk\" in [log]: the keys known here are level, operations, directory, max_size".into()),
        ("k =", &format!("{long} = 1\nk ="), format!("1:1: unknown key \"{}…\" at the top of the file, before the first [table]: the {top}", &long[..80])),
        // tables that are none
        ("k =", "limits = 5\nk =", "1:10: limits is 5: it must be a table, [limits]".into()),
        ("", "[[limits]]", "7:1: limits is an array: it must be a table, [limits]".into()),
        // not TOML
        ("n = 2", "n = 2\nn = 2", "3:1: this is not TOML: duplicate key".into()),
    ];
    for (old, new, expected) in cases {
        assert_eq!(error(&changed(old, new)), format!("m.cfg:{expected}"), "{old} -> {new}");
    }
}

#[test]
fn a_map_that_is_not_a_list_of_tables_is_an_error() {
    let start = "k = 4096\nn = 1\n";
    assert_eq!(
        error(start),
        "m.cfg:2:5: n is 1, but the number of [[server]] tables is 0: make them equal"
    );
    let brackets = "write [[server]], with two brackets, before each";
    assert_eq!(
        error(&format!("{start}[server]\naddress = \"a:1\"")),
        format!("m.cfg:3:1: server is a table: {brackets}")
    );
    assert_eq!(
        error(&format!("{start}server = \"a:1\"")),
        format!("m.cfg:3:10: server is \"a:1\": {brackets}")
    );
    let expected = "m.cfg:3:11: server.0 is \"a:1\": it must be a table, [[server]]";
    assert_eq!(error(&format!("{start}server = [\"a:1\"]")), expected);
}

#[test]
fn a_text_that_is_not_toml_is_refused_where_it_stops_being_toml() {
    let cases = [
        ("k = ", "1:5"),
        ("k", "1:2"),
        ("[a\n", "1:3"),
        ("k = \"ä\" ö", "1:9"),
        ("\n\n = 1", "3:2"),
        ("k = 64MiB", "1:5"),
    ];
    for (text, place) in cases {
        let error = error(text);
        assert!(
            error.starts_with(&format!("m.cfg:{place}: this is not TOML: ")),
            "{text:?}: {error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_file() {
    let text =
        "k = true\nn = 3\n[[server]]\naddress = \"a\"\n[limits]\nthreads = 0\n[client]\nx = 1";
    let error = error(text);
    let places: Vec<&str> = error
        .lines()
        .map(|line| line.split_once(": ").unwrap().0)
        .collect();
    assert_eq!(
        places,
        [
            "m.cfg:1:5",
            "m.cfg:2:5",
            "m.cfg:4:11",
            "m.cfg:6:11",
            "m.cfg:8:1"
        ],
        "{error}"
    );
    let together = parse("name = \"a b\"\nk = 1\nx = 1")
        .unwrap_err()
        .to_string();
    for words in [
        "name is \"a b\"",
        "k is 1 bytes",
        "n is missing",
        "[[server]] is missing",
        "\"x\"",
    ] {
        assert!(together.contains(words), "{words}: {together}");
    }
    assert_eq!(parse("").unwrap_err().to_string().lines().count(), 3);
    let endless: Vec<String> = (0..1000).map(|i| format!("x{i} = 1\n")).collect();
    assert_eq!(
        parse(&endless.concat())
            .unwrap_err()
            .to_string()
            .lines()
            .count(),
        MAX_DIAGNOSTICS
    );
}

#[test]
fn a_snapshot_agent_needs_a_separate_address() {
    let own = "m.cfg:7:12: server.1.snapshot is \"10.0.0.2:7411\", which is the address of server 1: give it another port";
    assert_eq!(error(&changed("", "snapshot = \"10.0.0.2:7411\"")), own);
    let twice = GOOD.replace("7411\"", "7411\"\nsnapshot = \"a:1\"");
    assert!(
        error(&twice)
            .contains(":8:12: server.1.snapshot is \"a:1\", which is the snapshot of server 0")
    );
}

#[test]
fn a_snapshot_agent_without_an_address_has_the_next_port_if_that_is_free() {
    let snapshot = |text: &str| {
        parse(text)
            .unwrap()
            .servers
            .into_iter()
            .map(|server| server.snapshot)
    };
    let texts = |text: &str| {
        snapshot(text)
            .map(|address| address.map(|it| it.to_string()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts(GOOD),
        [
            Some("10.0.0.1:7412".to_owned()),
            Some("10.0.0.2:7412".to_owned())
        ]
    );
    let together = GOOD.replace("10.0.0.2:7411", "10.0.0.1:7412");
    assert_eq!(texts(&together), [None, Some("10.0.0.1:7413".to_owned())]);
    assert_eq!(texts(&GOOD.replace("2:7411", "2:65535"))[1], None);
    let given = together.replace("1:7411\"", "1:7411\"\nsnapshot = \"10.0.0.1:7413\"");
    assert_eq!(texts(&given), [Some("10.0.0.1:7413".to_owned()), None]);
}

#[test]
fn snapshots_and_recovery_have_defaults_and_bounds() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.snapshot.copy_area, config.layout.share_size());
    assert_eq!(
        (config.snapshot.keep.newest, config.recovery.on_memory_loss),
        (24, OnMemoryLoss::Empty)
    );
    let text = "[snapshot]\ncopy_area = \"1MiB\"\ncompression = \"NONE\"\n[recovery]\non_memory_loss = \"wait\"";
    let config = parse(&changed("", text)).unwrap();
    assert_eq!(
        (config.snapshot.copy_area, config.snapshot.compression),
        (1 << 20, Compression::None)
    );
    assert_eq!(config.recovery.on_memory_loss, OnMemoryLoss::Wait);
    for wrong in [
        "compression = 0",
        "compression = 20",
        "compression = \"fast\"",
        "compression = \"3\"",
    ] {
        let message = error(&changed("", &format!("[snapshot]\n{wrong}")));
        assert!(
            message.ends_with("it must be a level from 1 to 19, or \"none\""),
            "{message}"
        );
    }
    assert!(
        error(&changed("", "[snapshot]\nkeep = 0"))
            .ends_with("it must be a whole number from 1 to 10000")
    );
    assert!(
        error(&changed("", "[snapshot]\ndirectory = \"x\""))
            .ends_with("it must be an absolute path")
    );
}

#[test]
fn an_address_that_others_reach_is_refused_unless_the_network_is_trusted() {
    let config = parse(GOOD).unwrap();
    assert_eq!(
        config.untrusted_address(1).unwrap().to_string(),
        "m.cfg:6:11: server 1 has the address \"10.0.0.2:7411\", which other machines can reach, so that each of them can \
         read and write the memory: set trusted_network = true in [security] if all of them may, else use a loopback address"
    );
    assert!(
        parse(&changed("", "[security]\ntrusted_network = true"))
            .unwrap()
            .untrusted_address(1)
            .is_none()
    );
    for address in ["127.0.0.1:1", "[::1]:1", "localhost:1"] {
        assert!(
            parse(&changed("10.0.0.2:7411", address))
                .unwrap()
                .untrusted_address(1)
                .is_none(),
            "{address}"
        );
    }
    assert!(
        parse(&changed("10.0.0.2", "node2"))
            .unwrap()
            .untrusted_address(1)
            .is_some()
    );
}

#[test]
fn a_file_that_cannot_be_read_says_how_to_name_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cfg");
    let missing = Config::load(&path).unwrap_err().to_string();
    assert!(
        missing.contains("m.cfg: No such file or directory") && missing.contains("DSM_CONFIG"),
        "{missing}"
    );

    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"k = 4096\nname = \"\xff\"").unwrap();
    let binary = Config::load(&path).unwrap_err().to_string();
    assert!(
        binary.ends_with("m.cfg:2:9: this byte is not UTF-8: save the file as UTF-8"),
        "{binary}"
    );

    file.set_len(MAX_FILE_SIZE + 1).unwrap();
    assert!(matches!(
        Config::load(&path).unwrap_err(),
        ConfigError::TooLong { .. }
    ));
}

#[test]
fn settings_say_which_line_each_value_came_from() {
    let text = changed(
        "",
        "snapshot = \"b:2\"\n[limits]\nhello_timeout = \"1500ms\"\nbuffer_memory = 16777216",
    );
    let settings = parse(&text).unwrap().settings();
    let find = |key: &str| {
        let setting = settings
            .iter()
            .find(|setting| setting.key == key)
            .unwrap_or_else(|| panic!("{key}"));
        (setting.value.as_str(), setting.origin)
    };
    assert_eq!(find("name"), ("dsm", Origin::Default));
    assert_eq!(find("k"), ("64MiB", Origin::Line(1)));
    assert_eq!(find("n"), ("2", Origin::Line(2)));
    assert_eq!(find("server.0.address"), ("10.0.0.1:7411", Origin::Line(4)));
    assert_eq!(find("server.1.snapshot"), ("b:2", Origin::Line(7)));
    assert_eq!(find("limits.hello_timeout"), ("1s 500ms", Origin::Line(9)));
    assert_eq!(find("limits.buffer_memory"), ("16MiB", Origin::Line(10)));
    assert_eq!(find("log.level"), ("info", Origin::Default));
    assert!(
        !settings
            .iter()
            .any(|setting| setting.key == "server.0.snapshot")
    );
}
