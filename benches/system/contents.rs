//! Writes and checks the contents of a memory that is measured.

use dsm_benches::pattern::{BytePattern, MAX_SIZE};
use dsm_client::Client;

/// Writes the pattern to the whole memory and checks it. Each page is then allocated.
pub(crate) fn fill(client: &Client, pattern: &BytePattern) -> Result<(), String> {
    for (address, data) in slices(pattern, client.size()) {
        client
            .write(address, data)
            .map_err(|error| error.to_string())?;
    }
    verify(client, pattern)
}

/// Reads the whole memory and compares it with the pattern.
pub(crate) fn verify(client: &Client, pattern: &BytePattern) -> Result<(), String> {
    let mut found = vec![0; MAX_SIZE];
    for (address, data) in slices(pattern, client.size()) {
        let found = &mut found[..data.len()];
        client
            .read_into(address, found)
            .map_err(|error| error.to_string())?;
        check(address, found, data)?;
    }
    Ok(())
}

/// Compares the bytes of a whole memory with the pattern.
pub(crate) fn check_all(found: &[u8], pattern: &BytePattern) -> Result<(), String> {
    slices(pattern, found.len() as u64)
        .zip(found.chunks(MAX_SIZE))
        .try_for_each(|((address, data), found)| check(address, found, data))
}

fn slices(pattern: &BytePattern, size: u64) -> impl Iterator<Item = (u64, &[u8])> {
    // The length is at most `MAX_SIZE`, which is a usize.
    #[allow(clippy::cast_possible_truncation)]
    (0..size).step_by(MAX_SIZE).map(move |address| {
        let length = (size - address).min(MAX_SIZE as u64) as usize;
        (address, pattern.at(address, length))
    })
}

fn check(address: u64, found: &[u8], expected: &[u8]) -> Result<(), String> {
    match found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected)
    {
        None => Ok(()),
        Some(place) => Err(format!(
            "the byte at address {} is not the one that was written",
            address + place as u64
        )),
    }
}
