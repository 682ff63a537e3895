//! A counter that any number of processes add to: each addition takes effect exactly once.
//!
//! ```console
//! $ cargo run --example counter -- ADDRESS ADDITIONS
//! $ cargo run --example counter -- 1048576 1000      # the same as without arguments
//! ```
//!
//! The memory that it uses is one 64-bit word, little-endian, at ADDRESS, in bytes and a multiple
//! of 8. The word may have any value at first. Start it in several terminals, or on several
//! machines, with the same ADDRESS. The servers are those of /etc/mcomp.cfg, or of the file that
//! the environment variable `DSM_CONFIG` names.

use dsm_client::{Client, Config, Effect};

/// Where the word is unless an argument says otherwise.
const ADDRESS: u64 = 1 << 20;

/// How often one is added unless an argument says otherwise.
const ADDITIONS: u64 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().map_or(Ok(ADDRESS), |text| text.parse())?;
    let additions: u64 = arguments
        .next()
        .map_or(Ok(ADDITIONS), |text| text.parse())?;
    let client = Client::new(&Config::load(&Config::find(None))?);

    for done in 0..additions {
        // The library sends a request again when a connection breaks or dsmd restarts, and the
        // server carries it out once.
        match client.fetch_add(address, 1) {
            Ok(_) => {}
            // Adding again could count one addition twice. What a program does here depends on what
            // it counts; this one leaves the decision to its user.
            Err(error) if error.effect() != Effect::None => {
                return Err(
                    format!("{done} additions took effect, and perhaps one more: {error}").into(),
                );
            }
            Err(error) => return Err(format!("{done} additions took effect: {error}").into()),
        }
    }
    let mut word = [0; 8];
    client.read_into(address, &mut word)?;
    println!(
        "{additions} added: the counter is {}",
        u64::from_le_bytes(word)
    );
    Ok(())
}
