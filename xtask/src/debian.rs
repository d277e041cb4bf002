//! The Debian image: what programs that people use look like as layers. `debootstrap` makes the base system, apt puts
//! python3, git, a compiler and a JDK on top of it, and umoci makes five layers of it all: about 365 MB, compressed.
//!
//! The first layer is written by GNU tar (times in nanoseconds, a sparse file), the others by umoci (whole seconds,
//! whiteouts). Besides what Debian has (devices, hard links, set-uid programs, a program with a capability) there is one
//! file or directory of each kind that a layer can have and Debian lacks; see [`CORNERS`] and [`LAYERS`].
//!
//! Making it takes minutes and the package mirror that this machine's apt is set up with, so it is kept below the
//! workspace's target directory. What is mounted meanwhile is mounted in a namespace that ends with its process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::{Context, Result, ensure};
use crate::process::Tool;
use crate::programs::{Program, apt};
use crate::scratch::Scratch;

/// The name of the image in its layout.
pub(crate) const TAG: &str = "debian";

/// The user of the image's config, by a name that only the image knows.
pub(crate) const USER: &str = "maker";

/// What making it needs.
pub(crate) const PROGRAMS: &[Program] = &[
    Program { name: "debootstrap", package: "debootstrap" },
    Program { name: "umoci", package: "umoci" },
    Program { name: "unshare", package: "util-linux" },
    Program { name: "tar", package: "tar" },
];

/// How long one program may take.
const LIMIT: Duration = Duration::from_secs(900);

/// A mount and a process namespace: its mounts, and what runs in it, end with the program that it was made for.
const APART: [&str; 4] = ["--mount", "--pid", "--fork", "--kill-child"];

/// Runs a script (`$2`) in a system of its own (`$1`).
const INSIDE: &str = r#"
mount -t proc proc "$1/proc"
exec chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive \
    sh -ec "$2"
"#;

/// What the base system gets that Debian's has not: names, owners, times, kinds and holes that ask for an extension of
/// the tar format, or for care.
const CORNERS: &str = r#"
apt-get clean
useradd --uid 1000 --create-home maker
mkdir -p /srv/corners && cd /srv/corners
deep=$(printf 'a-long-name-of-a-directory-%.0s' 1 2 3 4 5)
mkdir -p "$deep/$deep/$deep" && echo deep > "$deep/$deep/$deep/file"
mkdir 'näme with späces' && echo x > "näme with späces/$(printf 'odd\nname')"
echo large > owner && chown 3000000:4000000 owner
echo early > early && touch -d '1960-02-03 04:05:06.789012345 UTC' early
echo late > late && touch -d '2150-01-01 00:00:00.123456789 UTC' late
echo 'to the nanosecond' > nanosecond && touch -d '2020-02-02 02:02:02.000000007 UTC' nanosecond
mkfifo pipe && mknod character c 1 3 && mknod block b 7 250 && chown maker block && chmod 640 block
truncate -s 1M sparse && echo middle | dd of=sparse bs=1k seek=500 conv=notrunc status=none
echo linked > one && ln one two && mkdir links && ln one links/three && ln -s nowhere dangling
ln -s /srv/corners/one absolute && ln -s ../../etc/passwd relative && ln dangling dangling-twin
mkdir -m 3777 sticky && mkdir -m 2775 group && chown root:maker group && chmod 2775 group
mkdir -m 0 closed && echo closed > closed/file && chmod 0 closed/file && : > empty
mkdir removed replaced opened && echo 1 | tee removed/file replaced/file opened/file file-to-directory > link-to-file
mkdir directory-to-file directory-to-link && echo 1 | tee directory-to-file/file > directory-to-link/file
touch -d '2001-01-01 UTC' .
"#;

/// One layer above the base: Debian's packages, and what is done when they are there.
#[derive(Clone, Copy, Debug)]
struct Layer {
    packages: &'static [&'static str],
    then: &'static str,
}

/// The layers above the base. The last one takes away, and puts in the place of others, what the first one has. A
/// directory is gone before something else has its name: where both are one layer's doing, umoci 0.4.7 writes a whiteout
/// for what was in the directory, which then is in a file, and neither wharf nor containerd takes that.
const LAYERS: &[Layer] = &[
    Layer {
        packages: &["python3", "libcap2-bin", "iputils-ping"],
        then: "python3 -c 'import os; os.setxattr(\"/usr/bin/python3.11\", \"user.maker\", b\"\\0any\\xff\")'",
    },
    Layer { packages: &["git"], then: "rm -r /srv/corners/directory-to-file /srv/corners/directory-to-link" },
    Layer { packages: &["gcc", "g++", "make"], then: ":" },
    Layer {
        packages: &["openjdk-17-jdk-headless"],
        then: r"
            rm -r /var/lib/apt/lists /usr/share/doc/git
            cd /srv/corners
            rm -r removed replaced && mkdir -m 700 replaced && echo 2 > replaced/other
            echo 2 > opened/other && chmod 711 opened
            rm file-to-directory && mkdir file-to-directory && echo 2 > file-to-directory/file
            echo 2 > directory-to-file && ln -s opened directory-to-link
            rm link-to-file && ln owner link-to-file && chown maker:maker sticky && touch -d '2002-02-02 UTC' sticky
        ",
    },
];

/// umoci's options for the config.
const CONFIG: &[&str] = &[
    "--config.user=maker",
    "--config.workingdir=/home/maker",
    "--config.env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "--config.env=MADE_BY=umoci",
    "--config.cmd=/bin/bash",
    "--config.cmd=-l",
    "--config.label=org.example.base=debian",
    "--config.stopsignal=SIGTERM",
    "--config.exposedports=8080/tcp",
];

/// Gives the layout with the image, and makes it if it is not there yet. `target` is the workspace's target directory.
pub(crate) fn image(target: &Path) -> Result<PathBuf> {
    let place = target.join("debian-image");
    let codename = codename()?;
    let recipe = recipe(&codename);
    if fs::read_to_string(place.join("recipe")).is_ok_and(|found| found == recipe) {
        return Ok(place.join("layout"));
    }
    println!("making the Debian image, once; it takes some minutes");
    let started = Instant::now();
    fs::create_dir_all(target).context(target.display())?;
    let scratch = Scratch::within(target, "debian")?;
    let finished = scratch.dir("finished")?;
    make(&codename, scratch.path(), &finished.join("layout"))?;
    fs::write(finished.join("recipe"), recipe).context(finished.display())?;
    if place.exists() {
        fs::remove_dir_all(&place).context(place.display())?;
    }
    fs::rename(&finished, &place).context(place.display())?;
    println!("made the Debian image ({:.1} s)", started.elapsed().as_secs_f64());
    Ok(place.join("layout"))
}

/// All that decides what is in the image, but for the versions of the packages.
fn recipe(codename: &str) -> String {
    format!("{codename}\n{CORNERS}\n{LAYERS:#?}\n{CONFIG:#?}\n")
}

/// Makes the image as a layout at `layout`. What is made on the way stays in `work`.
fn make(codename: &str, work: &Path, layout: &Path) -> Result<()> {
    let image = format!("{}:{TAG}", layout.display());
    umoci("init").arg("--layout").arg(layout).success()?;
    umoci("new").args(["--image", &image]).success()?;
    umoci("config").args(["--image", &image]).args(CONFIG).success()?;

    let base = work.join("base");
    debootstrap(codename, &base)?;
    inside(&base, CORNERS)?;
    let tar = work.join("base.tar");
    pack(&base, &tar)?;
    umoci("raw").args(["add-layer", "--image", &image]).arg(&tar).success()?;
    for done in [&base, &tar] {
        Tool::new("rm").arg("-rf").arg(done).success()?;
    }

    let bundle = work.join("bundle");
    umoci("unpack").args(["--image", &image]).arg(&bundle).success()?;
    for layer in LAYERS {
        let install = "apt-get install --quiet --yes --no-install-recommends -o Dpkg::Use-Pty=0 \
                       -o Dpkg::Options::=--force-unsafe-io";
        let script = format!("{install} {}\napt-get clean\n{}", layer.packages.join(" "), layer.then);
        inside(&bundle.join("rootfs"), &script)?;
        umoci("repack").args(["--refresh-bundle", "--image", &image]).arg(&bundle).success()?;
    }
    umoci("gc").arg("--layout").arg(layout).success().map(drop)
}

fn umoci(command: &str) -> Tool {
    Tool::new("umoci").arg(command).limit(LIMIT)
}

fn debootstrap(codename: &str, root: &Path) -> Result<()> {
    let tool = Tool::new("unshare").args(APART).args(["debootstrap", "--variant=minbase"]);
    let tool = tool.args(["--include=ca-certificates", codename]).arg(root).arg(mirror(codename)?);
    tool.limit(LIMIT).success().map(drop)
}

/// Runs a script in the system at `root`, as its root.
fn inside(root: &Path, script: &str) -> Result<()> {
    let tool = Tool::new("unshare").args(APART).args(["sh", "-ec", INSIDE, "sh"]);
    tool.arg(root).arg(script).limit(LIMIT).success().map(drop)
}

/// A layer of all that is at `root`.
fn pack(root: &Path, tar: &Path) -> Result<()> {
    let tool = Tool::new("tar").args(["--create", "--format=posix", "--numeric-owner", "--sort=name"]);
    let tool = tool.args(["--pax-option=delete=atime,delete=ctime", "--sparse"]);
    let tool = tool.args(["--xattrs", "--xattrs-include=*", "--file"]).arg(tar);
    tool.arg("--directory").arg(root).arg(".").limit(LIMIT).success().map(drop)
}

/// The mirror of this Debian that this machine's apt has.
fn mirror(codename: &str) -> Result<String> {
    if let Some(found) = configured_mirror(codename)? {
        return Ok(found);
    }
    // Without a list apt does not know whose packages they are.
    apt().arg("update").run()?;
    configured_mirror(codename)?
        .context(format_args!("apt's configuration has no mirror of Debian's {codename}"))
}

fn configured_mirror(codename: &str) -> Result<Option<String>> {
    let tool = Tool::new("apt-get").args(["indextargets", "--format", "$(SITE)", "Created-By: Packages"]);
    let said = tool.arg("Origin: Debian").arg(format!("Codename: {codename}")).text()?;
    Ok(said.lines().next().map(str::to_owned))
}

/// What this machine's Debian is called.
fn codename() -> Result<String> {
    let path = "/etc/os-release";
    let text = fs::read_to_string(path).context(path)?;
    ensure(value(&text, "ID") == Some("debian"), || {
        format!("the Debian image is made on Debian, and {path} is another system's")
    })?;
    value(&text, "VERSION_CODENAME").map(str::to_owned).context(format_args!("no VERSION_CODENAME in {path}"))
}

/// A variable of os-release.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let text = "PRETTY_NAME=\"A B\"\nVERSION_CODENAME=bookworm\nID=debian\nID_LIKE=\"x\"\n";
        assert_eq!(value(text, "VERSION_CODENAME"), Some("bookworm"));
        assert_eq!(value(text, "ID"), Some("debian"));
        assert_eq!(value(text, "PRETTY_NAME"), Some("A B"));
        assert_eq!(value(text, "VERSION"), None);
    }

    #[test]
    fn another_debian_is_another_recipe() {
        assert_ne!(recipe("a"), recipe("b"));
        assert!(recipe("a").contains("openjdk"), "the packages are part of it");
        assert!(CONFIG.contains(&format!("--config.user={USER}").as_str()));
        assert!(CORNERS.contains(&format!("--create-home {USER}\n")));
    }
}
