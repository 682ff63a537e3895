//! How often a test repeats what must hold every time: less often in `make test`, more often in
//! `make test-long`.

/// Set to 1 by `make test-long`.
const LONG: &str = "DSM_TEST_LONG";

/// `reduced`, or `full` in a long run.
pub fn count<T>(reduced: T, full: T) -> T {
    if std::env::var_os(LONG).is_some_and(|value| value == "1") {
        full
    } else {
        reduced
    }
}

/// The same, unless the environment has a number under the name `variable`.
pub fn count_of<T: std::str::FromStr>(variable: &str, reduced: T, full: T) -> T {
    let given = std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| count(reduced, full))
}
