//! The examples of docs/protocol.md, sent to a running server in the order of the document.

use dsm_core::protocol::HEADER;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::Cluster;
use support::examples;
use support::examples::{Example, Token};

/// The memory that the examples use.
const K: u64 = 65536;

/// A hello opens a new connection; so do these two, which come instead of a hello.
const WITHOUT_HELLO: [&str; 2] = ["hello-expected", "bad-frame"];

/// Numbers of the codes after which the server closes the connection.
const CLOSING: [u8; 6] = [1, 2, 3, 4, 6, 12];

/// The request adapted to this server: with its name and address in the layout text, and its
/// incarnation in place of `??`.
fn request_for(example: &Example, cluster: &Cluster, incarnation: [u8; 8]) -> Vec<u8> {
    let mut bytes = examples::fill(&example.request, incarnation);
    if bytes[2] != 1 || !bytes.starts_with(b"DQ") {
        return bytes;
    }
    let text = String::from_utf8(bytes.split_off(HEADER + 40)).expect("a layout text");
    let text = text.replace("name=dsm\n", &format!("name={}\n", cluster.name()));
    let text = text.replace("127.0.0.1:7411", cluster.address(0));
    bytes.extend_from_slice(text.as_bytes());
    let payload = u32::try_from(bytes.len() - HEADER).expect("a short payload");
    bytes[4..8].copy_from_slice(&payload.to_le_bytes());
    bytes
}

/// Receives the reply and compares it with the example.
fn receive(stream: &mut TcpStream, example: &Example) -> Vec<u8> {
    let open_ended = example.reply.last() == Some(&Token::Rest);
    let shown = &example.reply[..example.reply.len() - usize::from(open_ended)];
    let mut bytes = vec![0; shown.len()];
    stream
        .read_exact(&mut bytes)
        .unwrap_or_else(|error| panic!("the reply to {}: {error}", example.name));
    for (place, (token, byte)) in shown.iter().zip(&bytes).enumerate() {
        let same = *token == Token::Any || *token == Token::Byte(*byte);
        assert!(
            same,
            "{}: byte {place} of the reply is {byte:02x}, not {token:?}\n{bytes:02x?}",
            example.name
        );
    }
    if open_ended {
        let length = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
        let mut rest = vec![0; length as usize];
        stream.read_exact(&mut rest).expect("the whole payload");
        let status: dsm_core::protocol::Status = serde_json::from_slice(&rest).expect("a status");
        assert_eq!((status.index, status.k), (0, K));
    }
    bytes
}

#[test]
fn a_running_server_answers_every_example_as_the_document_shows() {
    let cluster = Cluster::start(1, K);
    let mut incarnation = [0; 8];
    let mut connection: Option<TcpStream> = None;
    for example in examples::examples() {
        let request = request_for(&example, &cluster, incarnation);
        if request[2] == 1 || WITHOUT_HELLO.contains(&example.name.as_str()) {
            let stream = TcpStream::connect(cluster.address(0)).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            connection = Some(stream);
        }
        let stream = connection.as_mut().expect("a hello before everything else");
        stream.write_all(&request).unwrap();
        let reply = receive(stream, &example);
        if example.name == "hello" {
            incarnation = reply[HEADER + 8..HEADER + 16].try_into().unwrap();
        }
        if reply[2..].len() >= HEADER - 2 && CLOSING.contains(&reply[16]) {
            assert_eq!(
                stream.read(&mut [0]).unwrap(),
                0,
                "{}: the server closes",
                example.name
            );
        }
        println!("{}: {} bytes as shown", example.name, reply.len());
    }
}
