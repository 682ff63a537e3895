//! Servers of one memory, as processes of their own on loopback.

use dsm::config::Config;
use dsm::layout::Layout;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a server may take to listen, on a machine that is busy with other tests.
const READY: Duration = Duration::from_secs(20);

/// How long a server may take to end after SIGTERM: its own `limits.shutdown_timeout` is 5 s.
const STOPPED: Duration = Duration::from_secs(15);

/// The first server's port. It lies below the ports that the kernel hands out for outgoing connections, so that nobody
/// takes it while a server is down, and no client can connect to itself.
const FIRST_PORT: u16 = 7411;

/// Where the shared-memory objects are.
const SHARED_MEMORY: &str = "/dev/shm";

/// N servers with k bytes each, one mcomp.cfg, and a folder that goes with them.
///
/// Every method takes `&self`: a test may kill servers from one thread while others use the memory.
pub struct Cluster {
    layout: Layout,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
    children: Vec<Mutex<Option<Child>>>,
}

/// What a [`Cluster`] shall be.
#[derive(Debug, Clone)]
pub struct Builder {
    servers: usize,
    k: u64,
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

    /// An argument for every dsmd.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Writes mcomp.cfg and starts nothing.
    pub fn create(self) -> Cluster {
        let name = format!("dsmtest-{}-{:08x}", std::process::id(), random());
        let addresses = free_addresses(self.servers);
        let mut text = format!("name = {name:?}\nk = {}\nn = {}\n", self.k, self.servers);
        for address in &addresses {
            let _ = write!(text, "\n[[server]]\naddress = {address:?}\n");
        }
        let _ = write!(text, "\n{}", self.extra);
        let directory = tempfile::Builder::new().prefix(&name).tempdir().expect("a temporary folder");
        std::fs::write(directory.path().join("mcomp.cfg"), text).expect("mcomp.cfg in the temporary folder");
        let children = addresses.iter().map(|_| Mutex::new(None)).collect();
        let layout = Layout::new(&name, self.k, addresses).expect("a sound layout");
        Cluster { layout, arguments: self.arguments, directory, children }
    }

    /// Writes mcomp.cfg, starts every server and waits until all listen.
    pub fn start(self) -> Cluster {
        let cluster = self.create();
        // All first, then wait: they start at the same time.
        (0..cluster.n()).for_each(|index| cluster.spawn_server(index));
        (0..cluster.n()).for_each(|index| cluster.wait_until_ready(index));
        cluster
    }
}

impl Cluster {
    /// A builder: one server of 1 MiB unless told otherwise.
    pub fn builder() -> Builder {
        Builder { servers: 1, k: 1 << 20, extra: String::new(), arguments: Vec::new() }
    }

    /// Starts `n` servers that share `k` bytes each, and waits until all listen.
    pub fn start(n: usize, k: u64) -> Self {
        Self::builder().servers(n).k(k).start()
    }

    /// Starts server `index` and waits until it listens.
    ///
    /// # Panics
    /// When it runs already, ends, or does not listen in time; its stderr is in the message.
    pub fn start_server(&self, index: usize) {
        self.spawn_server(index);
        self.wait_until_ready(index);
    }

    /// Kills server `index` if it runs, starts it and waits until it listens.
    pub fn restart(&self, index: usize) {
        self.kill(index);
        self.start_server(index);
    }

    /// Starts server `index` and does not wait.
    pub fn spawn_server(&self, index: usize) {
        let mut child = self.child(index);
        assert!(child.is_none(), "server {index} runs already");
        let mut stderr = File::options().create(true).append(true).open(self.stderr_path(index)).expect("its stderr");
        let _ = writeln!(stderr, "--- dsmd --index {index}");
        let started = self.command(index).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        *child = Some(started.expect("dsmd starts"));
    }

    /// Waits until server `index` accepts a connection.
    pub fn wait_until_ready(&self, index: usize) {
        let end = Instant::now() + READY;
        while TcpStream::connect(self.address(index)).is_err() {
            let ended = self.child(index).as_mut().map(|child| child.try_wait().expect("wait"));
            let running = matches!(ended, Some(None));
            assert!(running, "server {index} is not running ({ended:?}):\n{}", self.stderr(index));
            assert!(Instant::now() < end, "server {index} does not listen after {READY:?}:\n{}", self.stderr(index));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The command line that starts server `index`, for a test that wants to run it in its own way.
    pub fn command(&self, index: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsmd"));
        command.arg("--config").arg(self.config_path()).arg("--index").arg(index.to_string()).args(&self.arguments);
        command.env_remove("DSM_CONFIG").env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        command
    }

    /// Kills server `index` with SIGKILL and waits until it is gone. Nothing happens when it does not run.
    pub fn kill(&self, index: usize) {
        if let Some(mut child) = self.child(index).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks server `index` to stop with SIGTERM and waits until it has.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub fn stop(&self, index: usize) -> ExitStatus {
        self.signal(index, nix::sys::signal::Signal::SIGTERM);
        self.wait(index)
    }

    /// Waits until server `index` has ended by itself.
    pub fn wait(&self, index: usize) -> ExitStatus {
        let mut child = self.child(index).take().unwrap_or_else(|| panic!("server {index} does not run"));
        let end = Instant::now() + STOPPED;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            if Instant::now() >= end {
                let _ = child.kill();
                let _ = child.wait();
                panic!("server {index} goes on after {STOPPED:?}:\n{}", self.stderr(index));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to server `index`.
    pub fn signal(&self, index: usize, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.pid(index)).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("a signal to a child");
    }

    /// The process id of server `index`.
    pub fn pid(&self, index: usize) -> u32 {
        self.child(index).as_ref().unwrap_or_else(|| panic!("server {index} does not run")).id()
    }

    /// mcomp.cfg as the product reads it.
    pub fn config(&self) -> Config {
        Config::load(&self.config_path()).expect("the harness writes a good mcomp.cfg")
    }

    /// Where mcomp.cfg is.
    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("mcomp.cfg")
    }

    /// The folder of this cluster, for a test's own files; it is removed at the end.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// k, N and the addresses.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The system's name, part of every shared-memory name.
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// Number of servers.
    pub fn n(&self) -> usize {
        self.layout.n()
    }

    /// Address of server `index`, `host:port`.
    pub fn address(&self, index: usize) -> &str {
        &self.layout.addresses()[index]
    }

    /// Everything that server `index` has written to stderr, over all its starts.
    pub fn stderr(&self, index: usize) -> String {
        std::fs::read(self.stderr_path(index))
            .map_or_else(|error| format!("(no stderr: {error})"), |bytes| String::from_utf8_lossy(&bytes).into_owned())
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
        found
    }

    fn stderr_path(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("stderr.{index}"))
    }

    fn child(&self, index: usize) -> MutexGuard<'_, Option<Child>> {
        // A test that failed while it held the lock still wants its servers killed.
        self.children[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.n() {
            self.kill(index);
            if std::thread::panicking() {
                eprintln!("stderr of server {index} ({}):\n{}", self.address(index), self.stderr(index));
            }
        }
        for path in self.leftovers() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Addresses that nobody else has: a loopback host of this cluster's own, 127.x.y.z, so that tests which run at the same
/// time cannot take each other's ports while a server is down.
fn free_addresses(servers: usize) -> Vec<String> {
    for _ in 0..100 {
        let [x, y, z, _] = random().to_le_bytes();
        let host = format!("127.{}.{y}.{}", x.max(1), z.clamp(1, 254));
        let addresses: Vec<String> = (FIRST_PORT..).take(servers).map(|port| format!("{host}:{port}")).collect();
        if addresses.iter().all(|address| is_free(address)) {
            return addresses;
        }
    }
    panic!("no free ports on loopback");
}

fn is_free(address: &str) -> bool {
    address.to_socket_addrs().is_ok_and(|mut resolved| resolved.any(|address| TcpListener::bind(address).is_ok()))
}

fn random() -> u32 {
    getrandom::u32().expect("the kernel's random numbers")
}
