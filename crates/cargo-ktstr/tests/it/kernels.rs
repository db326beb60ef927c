//! `cargo ktstr kernel` on trees and packages in miniature.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixture::{Project, Ran, files_below, lacks};
use crate::interrupt::wait_for;

/// A tree whose Makefile does what Linux's does: its configuration takes the whole fragment.
pub(crate) fn mini_tree(dir: &Path, name: &str) -> PathBuf {
    let tree = dir.join(name);
    fs::create_dir_all(&tree).unwrap();
    let fragment =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../ktstr-kernel/assets/ktstr.kconfig");
    let kept: String = fs::read_to_string(fragment)
        .unwrap()
        .lines()
        .filter(|line| !line.ends_with("=n"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(tree.join("config.in"), kept).unwrap();
    let makefile = "allnoconfig:\n\tcp config.in $(O)/.config\nbzImage:\n\tmkdir -p $(O)/arch/x86/boot \
        $(O)/include/config\n\techo image > $(O)/arch/x86/boot/bzImage\n\techo 9.9 > $(O)/include/config/kernel.release\n\
        \t@test -z \"$(wildcard wait)\" || (touch waiting; cat wait)\n\
        vmlinux:\n\tcp /bin/true $(O)/vmlinux\n";
    fs::write(tree.join("Makefile"), makefile).unwrap();
    tree
}

fn built_key(ran: &Ran) -> String {
    let path = PathBuf::from(ran.stdout.trim());
    path.parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

#[test]
fn build_list_and_clean() {
    let project = Project::new();
    mini_tree(&project.root(), "linux");
    project
        .run(&["kernel", "list"])
        .exits(0)
        .says(&["no kernels", "kernel build"]);
    let built = project.run(&["kernel", "build", "./linux"]);
    built.exits(0);
    let key = built_key(&built);
    assert!(key.starts_with("linux-"), "{key}");
    let again = project.run(&["kernel", "build", "./linux"]);
    assert_eq!(
        again.stdout, built.stdout,
        "the second one comes from the cache"
    );
    project
        .run(&["kernel", "list"])
        .exits(0)
        .says(&[&key, "9.9", "good"]);
    let json = project.run(&["kernel", "list", "--json"]).exits(0).json();
    assert_eq!(
        (json[0]["key"].as_str(), json[0]["in_use"].as_bool()),
        (Some(key.as_str()), Some(false))
    );
    project.run(&["test", "--kernel", &key, "passes"]).exits(0);

    project.run(&["kernel", "clean"]).exits(1).says(&["--keep"]);
    project
        .run(&["kernel", "clean", "nope"])
        .exits(1)
        .says(&["nope", &key]);
    project.run(&["kernel", "clean", "--keep", "1"]).exits(0);
    project
        .run(&["kernel", "clean", &key, "--dry-run"])
        .exits(0)
        .says(&["would remove"]);
    project
        .run(&["kernel", "clean", &key])
        .exits(0)
        .says(&["removed"]);
    assert_eq!(
        project.run(&["kernel", "list", "--json"]).json(),
        serde_json::json!([])
    );
}

/// A tree whose image is its two source files.
fn tree_with_sources(project: &Project) -> PathBuf {
    let tree = mini_tree(&project.root(), "linux");
    fs::write(tree.join("f.c"), "int f(void)\n{\n\treturn 1;\n}\n").unwrap();
    fs::write(tree.join("g.c"), "one\ntwo\n").unwrap();
    let makefile = tree.join("Makefile");
    let text = fs::read_to_string(&makefile).unwrap();
    let image = "echo image > $(O)/arch/x86/boot/bzImage";
    let text = text.replace(
        image,
        "echo made >> $(O)/count\n\tcat f.c g.c $(O)/count > $(O)/arch/x86/boot/bzImage",
    );
    fs::write(makefile, text).unwrap();
    let edit =
        "fix = 'abc'\n[[edit]]\nfile = 'f.c'\nfunction = 'f'\nold = 'return 1'\nnew = 'return 2'\n";
    fs::write(project.root().join("bug.toml"), edit).unwrap();
    let patch = "--- a/g.c\n+++ b/g.c\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n";
    fs::write(project.root().join("mine.patch"), patch).unwrap();
    tree
}

#[test]
fn edits_and_patches_make_other_kernels_in_a_tree_that_is_kept() {
    let project = Project::new();
    let tree = tree_with_sources(&project);
    let build = |more: &[&str]| {
        let mut args = vec!["kernel", "build", "./linux"];
        args.extend(more);
        project.run(&args)
    };
    let image = |ran: &Ran| fs::read_to_string(ran.exits(0).stdout.trim()).unwrap();
    let edited = build(&["--edit", "bug.toml"]);
    assert_eq!(
        image(&edited),
        "int f(void)\n{\n\treturn 2;\n}\none\ntwo\nmade\n"
    );
    let patched = build(&["--patch", "mine.patch"]);
    // The edit is gone, and the objects of the first build are there.
    assert_eq!(
        image(&patched),
        "int f(void)\n{\n\treturn 1;\n}\none\n2\nmade\nmade\n"
    );
    let both = build(&["--edit", "bug.toml", "--patch", "mine.patch"]);
    assert_eq!(
        image(&both),
        "int f(void)\n{\n\treturn 2;\n}\none\n2\nmade\nmade\nmade\n"
    );
    let again = build(&["--edit", "bug.toml"]);
    assert_eq!(again.stdout, edited.stdout, "from the cache");
    // The user's tree is as it was.
    assert!(
        fs::read_to_string(tree.join("f.c"))
            .unwrap()
            .contains("return 1")
    );
    assert_eq!(fs::read_to_string(tree.join("g.c")).unwrap(), "one\ntwo\n");
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 4);

    // None of them is what tests take by themselves.
    project
        .run(&["test", "passes"])
        .exits(1)
        .says(&["no test kernel was found"]);
    let listed = project.run(&["kernel", "list"]);
    listed.exits(0).says(&[
        "/linux with ",
        "mine.patch, bug.toml",
        "trees/linux-",
        "kept for",
    ]);
    let json = project.run(&["kernel", "list", "--json"]).json();
    let trees: Vec<_> = json
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["kind"] == "tree")
        .collect();
    let [kept] = trees.as_slice() else {
        panic!("{json:#}");
    };
    let key = kept["key"].as_str().unwrap();
    assert!(kept["bytes"].as_u64().unwrap() > 0, "{json:#}");
    project
        .run(&["kernel", "clean", key])
        .exits(0)
        .says(&["removed source tree"]);
    assert_eq!(
        project
            .run(&["kernel", "list", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(
        fs::read_dir(project.cache().join("trees"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count(),
        0
    );
}

#[test]
fn a_change_that_does_not_fit_is_told_with_its_file() {
    let project = Project::new();
    tree_with_sources(&project);
    let refuses = |args: &[&str], says: &[&str]| {
        let mut all = vec!["kernel", "build", "./linux"];
        all.extend(args);
        project.run(&all).exits(1).says(says);
    };
    let rewrite = |name: &str, from: &str, to: &str| {
        let path = project.root().join(name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace(from, to)).unwrap();
    };
    rewrite("bug.toml", "return 1", "return 7");
    refuses(
        &["--edit", "bug.toml"],
        &["bug.toml: `old` occurs 0 times in f() of f.c, expected once"],
    );
    rewrite("mine.patch", "-two", "-three");
    refuses(
        &["--patch", "mine.patch"],
        &["mine.patch: it does not apply", "g.c"],
    );
    refuses(&["--edit", "gone.toml"], &["gone.toml", "No such file"]);
    fs::write(project.root().join("bzImage"), "").unwrap();
    rewrite("bug.toml", "return 7", "return 1");
    project
        .run(&["kernel", "build", "./bzImage", "--edit", "bug.toml"])
        .exits(1)
        .says(&["change a source"]);
}

/// They were in the cache directory, gigabytes of them, and no command showed or removed them.
#[test]
fn kernels_of_newer_series_are_listed_and_cleaned() {
    let project = Project::new();
    mini_tree(&project.root(), "linux");
    let key = built_key(&project.run(&["kernel", "build", "./linux"]));
    let series = project.cache().join("series");
    fs::create_dir_all(series.join("debian-7.3/boot")).unwrap();
    fs::rename(
        project.cache().join("kernels").join(&key),
        series.join(&key),
    )
    .unwrap();
    project.run(&["kernel", "list"]).exits(0).says(&[
        &key,
        "9.9",
        "debian-7.3",
        "a distribution's package",
    ]);
    let found = project.run(&["kernel", "build", &key]);
    let image = series.join(&key).join("bzImage").display().to_string();
    assert_eq!(found.exits(0).stdout.trim(), image);
    project.run(&["kernel", "clean", "--keep", "0"]).exits(0);
    assert!(
        series.join(&key).is_dir(),
        "--keep is of the kernels that tests take"
    );
    project
        .run(&["kernel", "clean", "debian-7.3"])
        .exits(0)
        .says(&["removed debian-7.3"]);
    project
        .run(&["kernel", "clean", "--all"])
        .exits(0)
        .says(&["removed ", &key]);
    assert!(!series.join(&key).exists());
}

#[test]
fn an_entry_in_use_is_left_alone() {
    let project = Project::new();
    mini_tree(&project.root(), "linux");
    let key = built_key(&project.run(&["kernel", "build", "./linux"]));
    let lock = fs::File::open(project.cache().join(format!("kernels/.{key}.lock"))).unwrap();
    lock.lock_shared().unwrap();
    project.run(&["kernel", "list"]).says(&["in use"]);
    project
        .run(&["kernel", "clean", "--all"])
        .exits(1)
        .says(&["in use", &key, "locks"]);
    let waiter = project
        .command(&["kernel", "clean", "--all", "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Not by its drop: a process that another test forks just now has the file open, too.
    lock.unlock().unwrap();
    Ran::new(waiter.wait_with_output().unwrap())
        .exits(0)
        .says(&["removed"]);
}

#[test]
fn booted_guests_go_with_all_kernels_and_not_while_they_are_in_use() {
    let project = Project::new();
    let templates = project.cache().join("templates");
    fs::create_dir_all(templates.join("busy")).unwrap();
    fs::create_dir_all(templates.join("idle")).unwrap();
    fs::create_dir_all(templates.join(".template-left")).unwrap();
    let lock = fs::File::create(templates.join(".busy.lock")).unwrap();
    lock.lock_shared().unwrap();
    project
        .run(&["kernel", "clean", "--all", "--dry-run"])
        .exits(0)
        .says(&["would remove booted guest idle", "the leftover"]);
    project.run(&["kernel", "clean", "--all"]).exits(1).says(&[
        "removed booted guest idle",
        "in use",
        "booted guest busy",
    ]);
    assert!(templates.join("busy").is_dir() && !templates.join("idle").exists());
    assert!(!templates.join(".template-left").exists());
    // Not by its drop: a process that another test forks just now has the file open, too.
    lock.unlock().unwrap();
    project
        .run(&["kernel", "clean", "--all"])
        .exits(0)
        .says(&["removed booted guest busy"]);
}

/// Processes that have `text` among their arguments.
fn naming(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .map(|entry| entry.path())
        .filter(|path| fs::read_link(path.join("exe")).is_ok())
        .filter_map(|path| fs::read_to_string(path.join("cmdline")).ok())
        .filter(|arguments| arguments.contains(text))
        .collect()
}

/// Nobody can clean up after a SIGKILL: its children end by themselves, and what is left is shown and can be removed.
#[test]
fn a_killed_build_leaves_no_process_and_what_it_left_is_shown() {
    let project = Project::new();
    let tree = mini_tree(&project.root(), "linux");
    let made = Command::new("mkfifo").arg(tree.join("wait")).status();
    assert!(made.unwrap().success());
    let mut build = project
        .command(&["kernel", "build", "./linux"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the build", || tree.join("waiting").exists().then_some(()));
    let here = project.cache().display().to_string();
    assert!(!naming(&here).is_empty(), "make has its output directory");
    project
        .run(&["kernel", "clean"])
        .exits(1)
        .says(&["nothing was left"]);
    build.kill().unwrap();
    build.wait().unwrap();
    wait_for("make's end", || naming(&here).is_empty().then_some(()));
    let left = "a killed build left";
    project
        .run(&["kernel", "list"])
        .exits(0)
        .says(&[left, ".build-"]);
    let dry = ["kernel", "clean", "--dry-run"];
    project
        .run(&dry)
        .exits(0)
        .says(&["would remove the leftover"]);
    project
        .run(&["kernel", "clean"])
        .exits(0)
        .says(&["removed the leftover"]);
    let list = project.run(&["kernel", "list"]);
    assert!(!list.stderr.contains(left), "{}", list.stderr);
}

#[test]
fn damaged_entries_are_shown_and_cleaned() {
    let project = Project::new();
    mini_tree(&project.root(), "linux");
    let key = built_key(&project.run(&["kernel", "build", "./linux"]));
    fs::write(
        project.cache().join(format!("kernels/{key}/bzImage")),
        "other",
    )
    .unwrap();
    fs::create_dir(project.cache().join("kernels/.build-left")).unwrap();
    project.run(&["kernel", "list"]).exits(0).says(&["damaged"]);
    project
        .run(&["test", "--kernel", &key])
        .exits(1)
        .says(&["damaged", "clean --damaged"]);
    project
        .run(&["kernel", "clean", "--damaged"])
        .exits(0)
        .says(&[&key, "leftover"]);
    assert!(!project.cache().join("kernels/.build-left").exists());
}

#[test]
fn a_git_tag_is_fetched_once() {
    let project = Project::new();
    let tree = mini_tree(&project.root(), "repository");
    for args in [
        vec!["init", "--quiet"],
        vec!["add", "."],
        vec![
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.invalid",
            "commit",
            "--quiet",
            "-m",
            "one",
        ],
        vec!["tag", "v9.9"],
    ] {
        assert!(
            Command::new("git")
                .arg("-C")
                .arg(&tree)
                .args(args)
                .status()
                .unwrap()
                .success()
        );
    }
    let spec = format!("git+file://{}#tag=v9.9", tree.display());
    let first = project.run(&["kernel", "build", &spec]);
    first.exits(0).says(&["fetching v9.9"]);
    let second = project.run(&["kernel", "build", &spec]);
    assert!(!second.stderr.contains("fetching"), "{}", second.stderr);
    let missing = format!("git+file://{}#tag=v0", tree.display());
    project
        .run(&["kernel", "build", &missing])
        .exits(1)
        .says(&["v0"]);
    let left = files_below(&project.cache().join("git"));
    assert!(
        !left
            .iter()
            .any(|path| path.to_string_lossy().contains(".clone-")),
        "{left:?}"
    );
}

#[test]
fn a_package_without_what_guests_need_is_refused_by_option() {
    let project = Project::new();
    let debian = |name: &str, config: &str| {
        let root = project.root().join(name);
        fs::create_dir_all(root.join("DEBIAN")).unwrap();
        fs::create_dir_all(root.join("boot")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.invalid>\nDescription: t\n"
        );
        fs::write(root.join("DEBIAN/control"), control).unwrap();
        fs::write(root.join("boot/vmlinuz-9.9"), "image").unwrap();
        fs::write(root.join("boot/config-9.9"), config).unwrap();
        let made = Command::new("dpkg-deb")
            .arg("--build")
            .arg(&root)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        format!("./{name}.deb")
    };
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        return lacks("dpkg-deb", "there is no dpkg-deb on this host");
    }
    let good = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_DEVTMPFS=y\nCONFIG_SERIAL_8250_CONSOLE=y\nCONFIG_VIRTIO_CONSOLE=y\n\
                CONFIG_VIRTIO_PCI=y\n";
    let package = debian("good", good);
    let built = project.run(&["kernel", "build", &package]);
    built.exits(0);
    assert_eq!(fs::read(built.stdout.trim()).unwrap(), b"image");
    let package = debian(
        "modular",
        &good.replace("VIRTIO_CONSOLE=y", "VIRTIO_CONSOLE=m"),
    );
    project
        .run(&["kernel", "build", &package])
        .exits(1)
        .says(&["CONFIG_VIRTIO_CONSOLE is m", "built in"]);
    fs::write(project.root().join("junk.deb"), "junk").unwrap();
    project
        .run(&["kernel", "build", "./junk.deb"])
        .exits(1)
        .says(&["junk.deb"]);
}

/// Debian's unstable in miniature: image and configuration in two packages, under the modules' directory.
fn debian_mirror(project: &Project) -> PathBuf {
    let mirror = project.root().join("mirror");
    let good = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_DEVTMPFS=y\nCONFIG_SERIAL_8250_CONSOLE=y\nCONFIG_VIRTIO_CONSOLE=y\n\
                CONFIG_VIRTIO_PCI=y\nCONFIG_SCHED_CLASS_EXT=y\n";
    let mut listing = String::from(
        "Package: linux-image-amd64\nDepends: linux-image-9.9-amd64 (= 1)\nFilename: pool/meta.deb\n\n\
         Package: linux-image-9.9-amd64\nDepends: kmod, linux-binary-9.9-amd64, linux-base-9.9-amd64, linux-modules-9.9-amd64\n\
         Filename: pool/image.deb\n\nPackage: linux-modules-9.9-amd64\nFilename: pool/never-asked-for.deb\n\n",
    );
    // As Debian has it: image and configuration in two packages, under the modules' directory.
    for (name, file, text) in [
        ("linux-base-9.9-amd64", "config", good),
        ("linux-binary-9.9-amd64", "vmlinuz", "image"),
    ] {
        let root = project.root().join(name);
        let modules = root.join("usr/lib/modules/9.9-amd64");
        fs::create_dir_all(root.join("DEBIAN")).unwrap();
        fs::create_dir_all(&modules).unwrap();
        let control = format!(
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.invalid>\nDescription: t\n"
        );
        fs::write(root.join("DEBIAN/control"), control).unwrap();
        fs::write(modules.join(file), text).unwrap();
        fs::create_dir_all(mirror.join("pool")).unwrap();
        let package = format!("pool/{name}_9.9_amd64.deb");
        let mut build = Command::new("dpkg-deb");
        build.arg("--build").arg(&root).arg(mirror.join(&package));
        assert!(build.output().unwrap().status.success());
        let sum = Command::new("sha256sum")
            .arg(mirror.join(&package))
            .output()
            .unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let sum = sum.split_whitespace().next().unwrap().to_owned();
        listing.push_str(&format!(
            "Package: {name}\nFilename: {package}\nSHA256: {sum}\n\n"
        ));
    }
    let dists = mirror.join("dists/sid/main/binary-amd64");
    fs::create_dir_all(&dists).unwrap();
    fs::write(dists.join("Packages"), listing).unwrap();
    assert!(
        Command::new("xz")
            .arg(dists.join("Packages"))
            .status()
            .unwrap()
            .success()
    );
    mirror
}

/// A mirror in miniature, on a port of this process.
#[test]
fn a_distributions_newest_kernel_is_fetched_once_and_kept() {
    let project = Project::new();
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        return lacks("dpkg-deb", "there is no dpkg-deb on this host");
    }
    let server = Server::of(&debian_mirror(&project));
    let build = |base: &str, spec: &str| {
        let table = format!("debian={base} fedora={base}");
        let mut command = project.command(&["kernel", "build", spec]);
        Ran::new(command.env("KTSTR_DISTRO_MIRROR", table).output().unwrap())
    };
    let first = build(&server.base, "debian");
    let image = first.exits(0).stdout.trim().to_owned();
    assert_eq!(fs::read(&image).unwrap(), b"image");
    assert!(image.contains("packages/debian-9.9-amd64/"), "{image}");
    let asked = server.asked();
    assert!(
        asked
            .iter()
            .any(|path| path.ends_with("linux-binary-9.9-amd64_9.9_amd64.deb")),
        "{asked:?}"
    );
    assert!(
        !asked.iter().any(|path| path.contains("never-asked-for")),
        "{asked:?}"
    );
    // The list is looked at again, the packages are not.
    assert_eq!(build(&server.base, "debian").exits(0).stdout.trim(), image);
    let again = server.asked();
    assert_eq!(again, ["/dists/sid/main/binary-amd64/Packages.xz"]);

    let nobody = "http://127.0.0.1:9";
    let offline = build(nobody, "debian");
    offline
        .exits(0)
        .says(&["taking debian-9.9-amd64, which was fetched before"]);
    assert_eq!(offline.stdout.trim(), image);
    build(nobody, "fedora").exits(1).says(&[
        "127.0.0.1:9",
        "the newest kernel of fedora is not known",
        "KTSTR_DISTRO_MIRROR",
    ]);
    build(&server.base, "slackware")
        .exits(1)
        .says(&["slackware", "arch, debian, fedora, gke, ubuntu"]);
}

/// Serves the files of a directory over HTTP until it is dropped.
struct Server {
    base: String,
    asked: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Server {
    fn of(dir: &std::path::Path) -> Self {
        use std::io::{BufRead as _, BufReader, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (dir, told) = (dir.to_owned(), std::sync::Arc::clone(&asked));
        // It ends with this process: nothing waits for it.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let line = lines.next().unwrap_or_default();
                // Up to the empty one; what is not read is a reset for the client.
                let _: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                let body = fs::read(dir.join(path.trim_start_matches('/')));
                told.lock().unwrap().push(path);
                let status = if body.is_ok() {
                    "200 OK"
                } else {
                    "404 Not Found"
                };
                let body = body.unwrap_or_default();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = (&stream)
                    .write_all(head.as_bytes())
                    .and_then(|()| (&stream).write_all(&body));
            }
        });
        Self { base, asked }
    }

    /// What was asked for since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

#[test]
fn without_a_mirror_the_error_names_it() {
    let project = Project::new();
    let refused = |spec: &str| {
        let output = project
            .command(&["kernel", "build", spec])
            .env("KTSTR_KERNEL_MIRROR", "http://127.0.0.1:9")
            .output()
            .unwrap();
        Ran::new(output)
            .exits(1)
            .says(&["127.0.0.1:9", "KTSTR_KERNEL_MIRROR"]);
    };
    for spec in ["6.12", "6.12.30", "6.12..6.14"] {
        refused(spec);
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let project = Project::new();
    mini_tree(&project.root(), "linux");
    let disk = project.root().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(&disk)
        .output()
        .unwrap();
    if !mounted.status.success() {
        let why = String::from_utf8_lossy(&mounted.stderr);
        return lacks("root", &format!("a tmpfs cannot be mounted here: {why}"));
    }
    let unmount = Unmount(disk.clone());
    let ran = project
        .command(&["kernel", "build", "./linux"])
        .env("XDG_CACHE_HOME", &disk)
        .output()
        .unwrap();
    Ran::new(ran).exits(1).says(&["free", "KTSTR_CACHE_DIR"]);
    let left: Vec<_> = files_below(&disk)
        .into_iter()
        .filter(|path| path.extension().is_none_or(|e| e != "lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    // Results on the full disk: built elsewhere, the run's own directory cannot be made.
    project
        .run(&["test", "--kernel", "./bzImage", "passes"])
        .exits(0);
    fs::rename(project.runs(), project.root().join("old-runs")).unwrap();
    std::os::unix::fs::symlink(&disk, project.runs()).unwrap();
    fs::write(disk.join("filler"), vec![0; 2 << 20]).unwrap_err();
    project
        .run(&["test", "--kernel", "./bzImage", "passes"])
        .exits(1)
        .says(&["disk full", "No space left"]);
    project.run(&["stats"]).exits(1).says(&["index.sqlite"]);
    let run = project.root().join("old-runs");
    let run = fs::read_dir(run)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    let link = disk.join(run.file_name().unwrap());
    std::os::unix::fs::symlink(&run, &link).unwrap();
    let page = disk.join("report.html").display().to_string();
    project
        .run(&["report", "--output", &page])
        .exits(1)
        .says(&["cannot be written", "No space left"]);
    fs::remove_file(link).unwrap();
    fs::remove_file(disk.join("filler")).unwrap();
    drop(unmount);
}

pub(crate) struct Unmount(pub(crate) PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
