//! `tidelock check-config` through the real binary: its exit code and where its output goes. What
//! is a problem and how it reads is tested next to the code, in `src/config/tests.rs`.

use std::path::PathBuf;
use std::process::{Command, Output};

struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn check(file: &File) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidelock"));
    command.args(["check-config", "--config"]).arg(&file.0).env_clear().env("HOSTNAME", "host-1");
    command.output().unwrap()
}

#[test]
fn a_good_file_is_summed_up() {
    let file = File::new("good", "[node]\nname = \"a\"\ndata_dir = \"data\"\nworkers = 2\n");
    let output = check(&file);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("node      a, 2 workers, data in "), "{text}");
    assert!(text.contains("admin     http://127.0.0.1:9900 without a token\n"), "{text}");
    assert!(text.ends_with("ok\n"), "{text}");
}

#[test]
fn problems_are_listed_and_counted() {
    let file = File::new("bad", "[node]\nnmae = \"a\"\n[admin]\nlisten = \"0.0.0.0:9900\"\n");
    let output = check(&file);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(output.stdout.is_empty());
    let path = file.0.display();
    assert!(text.contains(&format!("{path}:2: node.nmae: unknown field, did you mean name?\n")), "{text}");
    assert!(text.contains(&format!("{path}:4: admin.listen: 0.0.0.0:9900 is not loopback")), "{text}");
    assert!(text.ends_with("\n2 problems\n"), "{text}");
}
