//! A server whose address is a host name listens on every address of that name, or warns of those
//! that lead to no server. Each test needs root, to mount another file over /etc/hosts.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use support::{Cluster, client_of, namespace};

/// Writes the cluster's mcomp.cfg with `name` for the host of its server.
fn name_server(cluster: &Cluster, name: &str) {
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    let address = format!("{:?}", cluster.address(0));
    assert!(text.contains(&address));
    let text = text.replace(&address, &format!("{:?}", format!("{name}:7411")));
    std::fs::write(
        cluster.config_path(),
        text + "\n[security]\ntrusted_network = true\n",
    )
    .unwrap();
}

fn host(cluster: &Cluster) -> String {
    cluster.address(0).rsplit_once(':').unwrap().0.to_owned()
}

#[test]
fn a_name_with_an_address_of_each_version_of_ip_is_served_on_both() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_name_with_an_address_of_each_version_of_ip_is_served_on_both",
    ) {
        return;
    }
    let cluster = Cluster::builder().create();
    let host = host(&cluster);
    // The last address is that of another machine.
    namespace::set_hosts(
        &format!("::1 node1\n{host} node1\n192.0.2.1 node1\n"),
        cluster.directory(),
    );
    name_server(&cluster, "node1");
    cluster.spawn_server(0);
    cluster.wait_until_ready(0);
    for address in ["[::1]:7411", &format!("{host}:7411")] {
        support::wait_for(
            &format!("{address} to be served"),
            support::wire::TEST_TIMEOUT,
            || std::net::TcpStream::connect(address).is_ok(),
        );
    }
    assert!(client_of(cluster.config().layout).ping(0).is_ok());
    // The server listens a moment before it logs the addresses.
    let listening = format!("on [::1]:7411 and {host}:7411");
    support::wait_for(&listening, support::wire::TEST_TIMEOUT, || {
        cluster.stderr(0).contains(&listening)
    });
    let said = cluster.stderr(0);
    assert!(
        said.contains(
            "node1:7411 resolves to 192.0.2.1:7411 too, which this machine does not have"
        ),
        "{said}"
    );
    assert!(cluster.stop(0).success());
}

#[test]
fn dsmd_and_config_check_warn_of_a_name_that_etc_hosts_makes_a_loopback_address() {
    if !namespace::entered(
        module_path!(),
        "dsmd_and_config_check_warn_of_a_name_that_etc_hosts_makes_a_loopback_address",
    ) {
        return;
    }
    let cluster = Cluster::builder().create();
    let host = host(&cluster);
    namespace::set_hosts(&format!("{host} node1\n"), cluster.directory());
    name_server(&cluster, "node1");
    let warning =
        format!("the host name node1 is {host} on this machine, which no other machine can reach");
    let mut check = Command::new(env!("CARGO_BIN_EXE_dsmctl"));
    let output = check
        .arg("--config")
        .arg(cluster.config_path())
        .args(["config", "check"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains(&warning) && said.contains("/etc/hosts"),
        "{said}"
    );
    cluster.start_server(0);
    let said = cluster.stderr(0);
    assert!(
        said.contains(&warning) && said.contains("/etc/hosts"),
        "{said}"
    );
}
