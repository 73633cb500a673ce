//! `weft logs -f`: what is printed, and when it ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use weft_tests::Mesh;

/// What has not ended by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints when it begins and ends; ends by itself, and is started again, when it is told so.
const TALKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: talker, namespace: quiet}
spec:
  containers:
    - name: talker
      command:
        - sh
        - -c
        - trap 'echo ending; exit 0' TERM; echo begun; until [ -e /tmp/again ]; do sleep 0.05; done; echo again
";

const OTHER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: quiet}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: quiet}
spec: {containers: [{name: other, command: [sh, -c, 'echo begun; exec sleep infinity']}]}
";

fn mesh() -> Mesh {
    let files = Mesh::builder().file("other.yaml", OTHER);
    files.file("talker.yaml", TALKER).up()
}

/// A terminal with `weft logs -f`. Dropping it ends it.
struct Follower {
    child: Child,
    dir: TempDir,
}

impl Follower {
    fn of(mesh: &Mesh, pod: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name| File::create(dir.path().join(name)).expect("a file");
        let mut command = mesh.command("logs");
        command.args(["-n", "quiet", "-f", pod]);
        let child = command.stdout(file("out")).stderr(file("err")).spawn();
        Self {
            child: child.expect("weft logs starts"),
            dir,
        }
    }

    fn said(&self, stream: &str) -> String {
        fs::read_to_string(self.dir.path().join(stream)).expect("what it said")
    }

    /// Waits until it has printed this.
    #[track_caller]
    fn prints(&self, wanted: &str) {
        let began = Instant::now();
        while self.said("out") != wanted {
            assert!(
                began.elapsed() < PATIENCE,
                "{wanted:?} is not what it prints: {:?}, {:?}",
                self.said("out"),
                self.said("err")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has ended by itself, and well; what it said on both streams.
    #[track_caller]
    fn ends(mut self) -> (String, String) {
        ends(&mut self.child);
        (self.said("out"), self.said("err"))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn ends(child: &mut Child) {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the child") {
            assert!(status.success(), "weft logs -f: {status}");
            return;
        }
        assert!(began.elapsed() < PATIENCE, "weft logs -f does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_followed_log_goes_on_over_a_restart_and_ends_with_its_pod() {
    let mesh = mesh();
    let (talker, other) = (Follower::of(&mesh, "talker"), Follower::of(&mesh, "other"));
    talker.prints("begun\n");
    mesh.exec_ok("quiet", "talker", &["touch", "/tmp/again"]);
    talker.prints("begun\nagain\nbegun\n");
    mesh.remove("talker.yaml");
    let (printed, why) = talker.ends();
    assert_eq!(printed, "begun\nagain\nbegun\nending\n");
    assert_eq!(why, "weft: pod quiet/talker has ended\n");
    other.prints("begun\n");
    assert_eq!(other.said("err"), "");
    mesh.end();
    assert_eq!(other.ends().1, "weft: pod quiet/other has ended\n");
}

#[test]
fn a_followed_log_ends_with_a_mesh_that_is_killed() {
    let mesh = mesh();
    let other = Follower::of(&mesh, "other");
    other.prints("begun\n");
    kill(mesh.pid(), Signal::SIGKILL).expect("weft up runs");
    assert_eq!(
        other.ends(),
        ("begun\n".to_owned(), "weft: the mesh has ended\n".to_owned())
    );
}

#[test]
fn who_has_read_enough_of_a_log_ends_following_it() {
    let mesh = mesh();
    let mut command = mesh.command("logs");
    command.args(["-n", "quiet", "-f", "other"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("weft logs starts");
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    reader.read_line(&mut line).expect("a line");
    assert_eq!(line, "begun\n");
    drop(reader); // and nothing more is printed, which would tell
    ends(&mut child);
}
