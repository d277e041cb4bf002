//! The README's first command: the main job, end to end, with nothing but what is built in.
//!
//! Makes a real image for two platforms from the `wharf` program itself, serves it by `wharf serve`, and lets `wharf` pull, list, show
//! and export it. Takes the path of the program.
#![expect(clippy::print_stdout, reason = "the demo tells what it does")]

use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use wharf_content::{LocalStore, Store};
use wharf_images::image_store;
use wharf_tests::{ImageFixture, Layer};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let program = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: demo PATH-OF-WHARF")?);
    let scratch = tempfile::tempdir()?;
    let registry_root = scratch.path().join("registry");

    say("1. An image for two platforms: the wharf program, and a second layer of files.");
    fill(&program, &registry_root)?;

    say("2. `wharf serve` offers it as a registry on loopback.");
    let server = Server::start(&program, &registry_root)?;
    let reference = format!("{}/demo/wharf:latest", server.address);
    println!("   http://{}", server.address);

    let wharf = Wharf { program: &program, root: scratch.path().join("store") };
    say("3. `wharf pull` takes the platform of this machine, `--all-platforms` every one.");
    let begun = Instant::now();
    wharf.run(&["pull", &reference])?;
    println!("   in {:.2} s, from the registry into a store, verified", begun.elapsed().as_secs_f64());
    wharf.run(&["pull", "--all-platforms", &reference])?;

    say("4. `wharf images ls`");
    wharf.run(&["images", "ls"])?;
    say("5. `wharf tree`");
    wharf.run(&["tree", &reference])?;

    say("6. `wharf export`, twice: the same bytes.");
    let archives = [scratch.path().join("one.tar"), scratch.path().join("two.tar")];
    for archive in &archives {
        wharf.run(&["export", &reference, "--all-platforms", "-o", &archive.display().to_string()])?;
    }
    let [one, two] = archives.map(fs::read);
    let (one, two) = (one?, two?);
    if one != two {
        return Err("the two archives differ".into());
    }
    println!("   {} bytes each, identical", one.len());

    server.stop()?;
    say(
        "Done: an image went through a registry, a pull, a store and an archive, with every digest verified on the way.",
    );
    Ok(())
}

fn say(text: &str) {
    println!("\n{text}");
}

/// Puts the image into the store that is then served.
fn fill(program: &Path, root: &Path) -> Result<()> {
    let binary = fs::read(program)?;
    let layers = |platform: &str| {
        vec![
            Layer::default().with("bin/wharf", binary.clone(), 0o755),
            Layer::of("etc/platform", platform).with(
                "usr/share/doc/wharf/README",
                &b"wharf, as an image\n"[..],
                0o644,
            ),
        ]
    };
    let image = ImageFixture::new()
        .with("linux/amd64", layers("linux/amd64"))
        .with("linux/arm64", layers("linux/arm64"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(root).await?);
        let images = image_store(store.as_ref())?;
        image.record(store.as_ref(), images.as_ref(), "localhost/demo/wharf:latest").await
    })?;
    Ok(())
}

/// The served registry, which ends with this.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(program: &Path, root: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["serve", "--read-only", "--addr", "127.0.0.1:0", "--root"])
            .arg(root)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("the server has no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("http://").map(str::to_owned);
        let server = Self { child, address: address.clone().unwrap_or_default() };
        address.ok_or("the server did not start")?;
        Ok(server)
    }

    fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

struct Wharf<'a> {
    program: &'a Path,
    root: PathBuf,
}

impl Wharf<'_> {
    fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(self.program)
            .arg("--root")
            .arg(&self.root)
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("wharf {} failed: {}", arguments.join(" "), output.status).into());
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            println!("   {line}");
        }
        Ok(())
    }
}
