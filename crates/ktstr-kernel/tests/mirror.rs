//! Kernels from a mirror: a local HTTP server that serves a small tree of ours.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ktstr_kernel::{BuildOptions, Cache, Kernel, KernelError, Progress, Release, Source, build};
use sha2::{Digest as _, Sha256};

const ARCHIVE: &str = "/v6.x/linux-6.12.30.tar.xz";
const SUMS: &str = "/v6.x/sha256sums.asc";

#[derive(Default)]
struct Steps(Vec<String>);

impl Progress for Steps {
    fn step(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
    fn tick(&mut self) {}
}

/// What the server answers to a path.
enum Answer {
    Whole(Vec<u8>),
    /// Promises all bytes and hangs up after half of them.
    Half(Vec<u8>),
}

struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(files: HashMap<&'static str, Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that hangs up early is the test's own business.
                let _ = serve(stream, &files, &log);
            }
        });
        Self { address, asked }
    }

    fn source(&self) -> Source {
        Source::Mirror {
            base: format!("http://{}/", self.address),
            release: Release::parse("6.12.30").unwrap(),
        }
    }
}

fn serve(
    mut stream: TcpStream,
    files: &HashMap<&'static str, Answer>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = files.get(path.as_str());
    log.lock().unwrap().push(path);
    let (status, len, body): (_, _, &[u8]) = match answer {
        Some(Answer::Whole(body)) => ("200 OK", body.len(), body),
        Some(Answer::Half(body)) => ("200 OK", body.len(), &body[..body.len() / 2]),
        None => ("404 Not Found", 0, &[]),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)
}

/// A tree whose Makefile does what Linux's does, in miniature, as an archive.
fn archive() -> Vec<u8> {
    let fragment = include_str!("../assets/ktstr.kconfig");
    // Options that are off are not written as `=n`.
    let config: String = fragment
        .lines()
        .filter(|line| !line.ends_with("=n"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let makefile = "allnoconfig:\n\tcp config.in $(O)/.config\nbzImage:\n\tmkdir -p $(O)/arch/x86/boot \
        $(O)/include/config\n\techo image > $(O)/arch/x86/boot/bzImage\n\techo 6.12.30 > $(O)/include/config/kernel.release\n\
        vmlinux:\n\tcp /bin/true $(O)/vmlinux\n";
    let xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    let mut tar = tar::Builder::new(xz);
    for (name, text) in [("Makefile", makefile), ("config.in", &config)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len().try_into().unwrap());
        header.set_mode(0o644);
        tar.append_data(
            &mut header,
            format!("linux-6.12.30/{name}"),
            text.as_bytes(),
        )
        .unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn sums(archive: &[u8]) -> Answer {
    let sum = Sha256::digest(archive);
    let list = format!("-----BEGIN PGP SIGNED MESSAGE-----\n\n{sum:x}  linux-6.12.30.tar.xz\n");
    Answer::Whole(list.into_bytes())
}

struct Run {
    result: Result<Kernel, KernelError>,
    steps: Vec<String>,
    cache: Cache,
    dir: tempfile::TempDir,
}

impl Run {
    fn new(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("kernels"));
        let (result, steps) = build_from(server, &cache, &dir);
        Self {
            result,
            steps,
            cache,
            dir,
        }
    }

    fn again(self, server: &Server) -> Self {
        // The kernel's lease goes before the next build wants the entry.
        drop(self.result);
        let (result, steps) = build_from(server, &self.cache, &self.dir);
        Self {
            result,
            steps,
            ..Self::parts(self.cache, self.dir)
        }
    }

    fn parts(cache: Cache, dir: tempfile::TempDir) -> Self {
        let result = Err(KernelError::None {
            cache: cache.root().to_owned(),
        });
        Self {
            result,
            steps: Vec::new(),
            cache,
            dir,
        }
    }

    fn error(&self) -> String {
        let error = self.result.as_ref().unwrap_err();
        assert!(self.cache.keys().is_empty(), "nothing is published");
        let sources = fs::read_dir(self.dir.path().join("sources"));
        let kept = sources.into_iter().flatten().count();
        assert_eq!(kept, 0, "nothing half is kept");
        error.to_string()
    }
}

fn build_from(
    server: &Server,
    cache: &Cache,
    dir: &tempfile::TempDir,
) -> (Result<Kernel, KernelError>, Vec<String>) {
    let options = BuildOptions {
        jobs: 1,
        log: dir.path().join("build.log"),
        min_free_bytes: 1,
    };
    let mut steps = Steps::default();
    let result = build(cache, &server.source(), &options, &mut steps);
    (result, steps.0)
}

#[test]
fn a_release_is_fetched_checked_built_and_kept() {
    let archive = archive();
    let server = Server::start(HashMap::from([
        (SUMS, sums(&archive)),
        (ARCHIVE, Answer::Whole(archive)),
    ]));
    let run = Run::new(&server);
    let kernel = run.result.as_ref().unwrap();
    assert_eq!(fs::read(&kernel.image).unwrap(), b"image\n");
    assert!(run.cache.keys()[0].starts_with("linux-6.12.30-"));
    let told = run.steps.iter().any(|step| step.contains(ARCHIVE));
    assert!(told, "{:?}", run.steps);
    assert_eq!(*server.asked.lock().unwrap(), [SUMS, ARCHIVE]);
    let run = run.again(&server);
    assert!(run.result.is_ok() && run.steps.is_empty());
    assert_eq!(
        server.asked.lock().unwrap().len(),
        2,
        "the second time costs nothing"
    );
}

#[test]
fn a_damaged_entry_is_rebuilt_from_the_kept_archive() {
    let archive = archive();
    let server = Server::start(HashMap::from([
        (SUMS, sums(&archive)),
        (ARCHIVE, Answer::Whole(archive)),
    ]));
    let run = Run::new(&server);
    let image = run.result.as_ref().unwrap().image.clone();
    fs::write(&image, b"imagX\n").unwrap();
    let run = run.again(&server);
    assert!(run.result.is_ok(), "{:?}", run.result);
    assert_eq!(fs::read(&image).unwrap(), b"image\n");
    assert_eq!(
        server.asked.lock().unwrap().len(),
        2,
        "nothing was fetched again"
    );
}

#[test]
fn another_archive_than_the_listed_one_is_refused() {
    let archive = archive();
    let server = Server::start(HashMap::from([
        (SUMS, sums(b"something else")),
        (ARCHIVE, Answer::Whole(archive.clone())),
    ]));
    let error = Run::new(&server).error();
    let found = format!("{:x}", Sha256::digest(&archive));
    let expected = format!("{:x}", Sha256::digest(b"something else"));
    let told = [found.as_str(), &expected, ARCHIVE];
    assert!(told.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn a_download_that_breaks_off_leaves_nothing() {
    let archive = archive();
    let server = Server::start(HashMap::from([
        (SUMS, sums(&archive)),
        (ARCHIVE, Answer::Half(archive)),
    ]));
    let error = Run::new(&server).error();
    let told = ["failed to fetch", "KTSTR_KERNEL_MIRROR"];
    assert!(told.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn a_version_that_is_not_there_is_named() {
    let list = Answer::Whole(b"-----BEGIN PGP SIGNED MESSAGE-----\n".to_vec());
    let server = Server::start(HashMap::from([(SUMS, list)]));
    let error = Run::new(&server).error();
    assert!(
        error.contains("Linux 6.12.30") && error.contains(SUMS),
        "{error}"
    );
    let run = Run::new(&Server::start(HashMap::new()));
    let error = run.error();
    assert!(error.contains(SUMS), "{error}");
    let cause = std::error::Error::source(run.result.as_ref().unwrap_err())
        .unwrap()
        .to_string();
    assert!(cause.contains("404"), "{cause}");
}
