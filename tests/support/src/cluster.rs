//! The servers of one memory, as real processes on loopback.

use super::program::{ChildProgram, built};
use dsm_config::Config;
use dsm_core::layout::Layout;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs::DirEntry;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// The first server's port. It is below the kernel's ports for outgoing connections. Otherwise an
/// outgoing connection could take the port of a server that is down, and a client could connect to
/// itself.
const FIRST_PORT: u16 = 7411;

/// The port of the first server's snapshot agent. It is below the same bound and is no server's.
const FIRST_AGENT_PORT: u16 = 7511;

/// Where the shared-memory objects are.
const SHARED_MEMORY: &str = "/dev/shm";

/// N servers with k bytes each, their mcomp.cfg and a temporary folder. Dropping it kills the
/// servers and removes all of this.
///
/// Every method takes `&self`: a test may kill servers from one thread while others use the memory.
pub struct Cluster {
    layout: Layout,
    arguments: Vec<String>,
    // Declared before the folder, so that the programs are dropped while their stderr still exists.
    servers: Vec<ChildProgram>,
    agents: Vec<ChildProgram>,
    agent_addresses: Vec<String>,
    directory: tempfile::TempDir,
}

/// The settings of a [`Cluster`].
#[derive(Debug, Clone)]
pub struct Builder {
    servers: usize,
    k: u64,
    snapshot: String,
    local: &'static str,
    extra: String,
    arguments: Vec<String>,
}

impl Builder {
    /// Number of servers.
    pub fn servers(mut self, servers: usize) -> Self {
        self.servers = servers;
        self
    }

    /// Bytes that each server shares.
    pub fn k(mut self, k: u64) -> Self {
        self.k = k;
        self
    }

    /// Text to put after the network map in mcomp.cfg, such as a `[limits]` table.
    pub fn config(mut self, text: &str) -> Self {
        self.extra.push_str(text);
        self.extra.push('\n');
        self
    }

    /// A line of the `[snapshot]` table. The cluster sets its `directory`.
    pub fn snapshot(mut self, line: &str) -> Self {
        self.snapshot.push_str(line);
        self.snapshot.push('\n');
        self
    }

    /// Lets programs that read mcomp.cfg use the servers' shared memory. The default is TCP alone.
    pub fn local(mut self) -> Self {
        self.local = "auto";
        self
    }

    /// An argument for every dsmd.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Writes mcomp.cfg without starting a server.
    pub fn create(self) -> Cluster {
        let name = format!("dsmtest-{}-{:08x}", std::process::id(), random());
        let (addresses, agent_addresses) = free_addresses(self.servers);
        let mut text = format!("name = {name:?}\nk = {}\nn = {}\n", self.k, self.servers);
        for (address, agent) in addresses.iter().zip(&agent_addresses) {
            let _ = write!(
                text,
                "\n[[server]]\naddress = {address:?}\nsnapshot = {agent:?}\n"
            );
        }
        let directory = tempfile::Builder::new()
            .prefix(&name)
            .tempdir()
            .expect("a temporary folder");
        let path = |file: String| directory.path().join(file);
        let snapshots = path("snapshots".to_owned());
        std::fs::create_dir(&snapshots).expect("a folder in the temporary folder");
        let _ = write!(
            text,
            "\n[snapshot]\ndirectory = \"{}\"\n{}\n{}",
            snapshots.display(),
            self.snapshot,
            self.extra
        );
        let _ = write!(text, "\n[client]\nlocal = {:?}\n", self.local);
        std::fs::write(directory.path().join("mcomp.cfg"), text)
            .expect("mcomp.cfg in the temporary folder");
        let server =
            |index| ChildProgram::new(format!("server {index}"), path(format!("stderr.{index}")));
        let agent = |index| {
            ChildProgram::new(
                format!("the agent of server {index}"),
                path(format!("stderr.agent.{index}")),
            )
        };
        let (servers, agents) = (
            (0..self.servers).map(server).collect(),
            (0..self.servers).map(agent).collect(),
        );
        let layout = Layout::new(&name, self.k, addresses).expect("a valid layout");
        Cluster {
            layout,
            arguments: self.arguments,
            servers,
            agents,
            agent_addresses,
            directory,
        }
    }

    /// Writes mcomp.cfg, starts every server and waits until each listens.
    pub fn start(self) -> Cluster {
        let cluster = self.create();
        // Spawn all before waiting, so that they start at the same time.
        (0..cluster.n()).for_each(|index| cluster.spawn_server(index));
        (0..cluster.n()).for_each(|index| cluster.wait_until_ready(index));
        cluster
    }
}

impl Cluster {
    /// A builder with its defaults: one server of 1 MiB.
    pub fn builder() -> Builder {
        Builder {
            servers: 1,
            k: 1 << 20,
            snapshot: String::new(),
            local: "never",
            extra: String::new(),
            arguments: Vec::new(),
        }
    }

    /// Starts `n` servers that share `k` bytes each, and waits until each listens.
    pub fn start(n: usize, k: u64) -> Self {
        Self::builder().servers(n).k(k).start()
    }

    /// Starts server `index` and waits until it listens.
    ///
    /// # Panics
    /// When the server already runs, ends, or does not listen in time. The message has its stderr.
    pub fn start_server(&self, index: usize) {
        self.spawn_server(index);
        self.wait_until_ready(index);
    }

    /// Kills server `index` if it runs, starts it and waits until it listens.
    pub fn restart(&self, index: usize) {
        self.kill(index);
        self.start_server(index);
    }

    /// Starts server `index` without waiting for it.
    pub fn spawn_server(&self, index: usize) {
        self.servers[index].spawn(&mut self.command(index));
    }

    /// Waits until server `index` accepts a connection.
    pub fn wait_until_ready(&self, index: usize) {
        self.servers[index].wait_until_ready(self.address(index));
    }

    /// The command line of server `index`, for a test that spawns the process itself.
    pub fn command(&self, index: usize) -> Command {
        let mut command = Command::new(built("dsmd"));
        command
            .arg("--config")
            .arg(self.config_path_of(index))
            .arg("--index")
            .arg(index.to_string());
        command.args(&self.arguments);
        command
            .env_remove("DSM_CONFIG")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM");
        command
    }

    /// Kills server `index` with SIGKILL, if it runs, and waits until the process has ended.
    pub fn kill(&self, index: usize) {
        self.servers[index].kill();
    }

    /// Sends server `index` SIGTERM and waits until it has ended.
    ///
    /// # Panics
    /// When the server does not run, or does not end in time.
    pub fn stop(&self, index: usize) -> ExitStatus {
        self.signal(index, Signal::SIGTERM);
        self.wait(index)
    }

    /// Waits until server `index` has ended, without sending it a signal.
    pub fn wait(&self, index: usize) -> ExitStatus {
        self.servers[index].wait()
    }

    /// Sends a signal to server `index`.
    pub fn signal(&self, index: usize, signal: Signal) {
        self.servers[index].signal(signal);
    }

    /// The threads with this name of server `index`.
    pub fn threads(&self, index: usize, name: &str) -> Vec<Pid> {
        threads_of(self.pid(index), name)
    }

    /// The process id of server `index`.
    pub fn pid(&self, index: usize) -> u32 {
        self.servers[index].pid()
    }

    /// The snapshot agent of server `index`. `start_agent` starts it.
    pub fn agent(&self, index: usize) -> &ChildProgram {
        &self.agents[index]
    }

    /// The endpoint of the snapshot agent of server `index`, `host:port`.
    pub fn agent_address(&self, index: usize) -> &str {
        &self.agent_addresses[index]
    }

    /// mcomp.cfg as the product reads it.
    pub fn config(&self) -> Config {
        Config::load(&self.config_path()).expect("the harness writes a valid mcomp.cfg")
    }

    /// The path of mcomp.cfg.
    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("mcomp.cfg")
    }

    /// The path of the mcomp.cfg of server `index`: `mcomp.INDEX.cfg` in the same folder if a test
    /// has written one, else that of all servers.
    pub fn config_path_of(&self, index: usize) -> PathBuf {
        let own = self.directory.path().join(format!("mcomp.{index}.cfg"));
        if own.exists() {
            own
        } else {
            self.config_path()
        }
    }

    /// The temporary folder of this cluster, which a test may use for its own files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// k, N and the addresses.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The name of the memory, which is a part of every shared-memory name.
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// Number of servers.
    pub fn n(&self) -> usize {
        self.layout.server_count()
    }

    /// The endpoint of server `index`, `host:port`.
    pub fn address(&self, index: usize) -> &str {
        &self.layout.addresses()[index]
    }

    /// Everything that server `index` has written to stderr, over all its starts.
    pub fn stderr(&self, index: usize) -> String {
        self.servers[index].stderr()
    }

    /// The shared-memory objects and semaphores of this cluster that exist now.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let (segment, semaphore) = (format!("{}.", self.name()), format!("sem.{}.", self.name()));
        let entries = std::fs::read_dir(SHARED_MEMORY).expect("/dev/shm");
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with(&segment) || name.starts_with(&semaphore)
            })
            .map(|entry| entry.path())
            .collect();
        found.sort();
        // Other tests add and remove entries: readdir may return a name twice.
        found.dedup();
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Kill all first: a live process could create a removed object again.
        self.servers
            .iter()
            .chain(&self.agents)
            .for_each(ChildProgram::kill);
        for path in self.leftovers() {
            // Some tests create a folder with the name of an object.
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
        }
    }
}

/// Free endpoints for the servers and for their agents. Each cluster has a random loopback address,
/// 127.x.y.z, so that a parallel test cannot take the port of a server that is down.
fn free_addresses(servers: usize) -> (Vec<String>, Vec<String>) {
    for _ in 0..100 {
        let [x, y, z, _] = random().to_le_bytes();
        let host = format!("127.{}.{y}.{}", x.max(1), z.clamp(1, 254));
        let from = |first: u16| {
            (first..)
                .take(servers)
                .map(|port| format!("{host}:{port}"))
                .collect::<Vec<_>>()
        };
        let (addresses, agents) = (from(FIRST_PORT), from(FIRST_AGENT_PORT));
        if addresses
            .iter()
            .chain(&agents)
            .all(|address| is_free(address))
        {
            return (addresses, agents);
        }
    }
    panic!("no free ports on loopback");
}

fn is_free(address: &str) -> bool {
    address
        .to_socket_addrs()
        .is_ok_and(|mut resolved| resolved.any(|address| TcpListener::bind(address).is_ok()))
}

/// The threads of a process that have this name.
pub(super) fn threads_of(pid: u32, name: &str) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("the server runs")
        .flatten();
    // A thread that has just ended has no `comm` file.
    let name_of =
        |task: &DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let named = tasks.filter(|task| name_of(task).trim() == name);
    let number = |task: DirEntry| task.file_name().to_str()?.parse().ok();
    named.filter_map(number).map(Pid::from_raw).collect()
}

fn random() -> u32 {
    getrandom::u32().expect("the kernel's random numbers")
}
