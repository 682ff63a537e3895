//! How many times a test repeats its check: few times in `make test`, many in `make test-long`.

/// Set to 1 by `make test-long`.
const LONG: &str = "DSM_TEST_LONG";

/// Returns `full` in `make test-long`, else `reduced`.
pub fn count<T>(reduced: T, full: T) -> T {
    if std::env::var_os(LONG).is_some_and(|value| value == "1") {
        full
    } else {
        reduced
    }
}

/// The number in the environment variable `variable`; without one, the same as [`count`].
pub fn count_of<T: std::str::FromStr>(variable: &str, reduced: T, full: T) -> T {
    let given = std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| count(reduced, full))
}
