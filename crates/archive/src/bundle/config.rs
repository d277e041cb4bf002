//! From an image's config to the `config.json` of a runtime.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use wharf_content::{Error, Result};

use super::{Access, BundleOptions, MAX_ARGUMENTS_LEN, Streams, user::Accounts};

/// Where programs are looked for when the image says nothing (conversion.md; containerd: `defaultUnixEnv`).
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What containerd lets a container do.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Annotations that command a runtime instead of describing an image: properties of systemd's units (runc), crun's own switches, the file that
/// CRIU reads its configuration from, Kata's. They are for who runs a container to set, and no image's.
const COMMANDS: &[&str] = &["org.systemd.property.", "run.oci.", "org.criu.", "io.katacontainers."];

/// What of an image's config a runtime wants to know.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ImageConfig {
    created: Option<String>,
    author: Option<String>,
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
    config: Option<Process>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Process {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, Value>>,
    volumes: Option<BTreeMap<String, Value>>,
}

impl ImageConfig {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::invalid_argument("not an image config").with_source(error))
    }

    fn process(&self) -> Process {
        self.config.clone().unwrap_or_default()
    }

    /// Refuses, before anything is unpacked, what cannot become a container.
    pub(super) fn check(&self, options: &BundleOptions) -> Result<()> {
        if self.os.as_deref().is_some_and(|os| os != "linux") {
            let os = self.os.as_deref().unwrap_or_default();
            return Err(Error::invalid_argument(format!("the image is for {os:?}: bundles are for linux")));
        }
        let (arguments, environment) = (self.arguments(options)?, self.environment(options)?);
        if arguments.iter().chain(&environment).any(|text| text.contains('\0')) {
            return Err(Error::invalid_argument("an argument or a variable with a zero byte"));
        }
        let len = arguments.iter().chain(&environment).map(|text| text.len() + 1).sum::<usize>();
        if len > MAX_ARGUMENTS_LEN {
            return Err(Error::resource_exhausted(format!(
                "arguments and variables are more than {MAX_ARGUMENTS_LEN} bytes"
            )));
        }
        self.directory(options)?;
        self.volumes()?;
        for bind in &options.binds {
            let (source, destination) = (bind.source.display(), &bind.destination);
            if !bind.source.is_absolute() || !destination.starts_with('/') {
                return Err(Error::invalid_argument(format!("{source}:{destination} are no absolute paths")));
            }
        }
        Ok(())
    }

    fn arguments(&self, options: &BundleOptions) -> Result<Vec<String>> {
        let process = self.process();
        let mut arguments = process.entrypoint.clone().unwrap_or_default();
        arguments.extend(options.arguments.clone().or_else(|| process.cmd.clone()).unwrap_or_default());
        if arguments.first().is_none_or(String::is_empty) {
            return Err(Error::invalid_argument("the image says nothing to run: give a command"));
        }
        Ok(arguments)
    }

    fn environment(&self, options: &BundleOptions) -> Result<Vec<String>> {
        let process = self.process();
        let mut environment: Vec<String> = vec![PATH.into()];
        let own = process.env.iter().flatten().filter(|variable| variable.contains('='));
        for variable in own.chain(&options.environment) {
            let name = match variable.split_once('=') {
                Some((name, _)) if !name.is_empty() => name,
                _ => return Err(Error::invalid_argument(format!("{variable:?} is no NAME=VALUE"))),
            };
            let is_same = |other: &String| other.split_once('=').is_some_and(|(other, _)| other == name);
            match environment.iter_mut().find(|other| is_same(other)) {
                Some(there) => there.clone_from(variable),
                None => environment.push(variable.clone()),
            }
        }
        Ok(environment)
    }

    fn directory(&self, options: &BundleOptions) -> Result<String> {
        let process = self.process();
        let directory = options.directory.as_ref().or(process.working_dir.as_ref());
        match directory.map(String::as_str) {
            None | Some("") => Ok("/".into()),
            Some(directory) if directory.starts_with('/') => Ok(directory.into()),
            Some(other) => {
                Err(Error::invalid_argument(format!("the working directory {other:?} is no absolute path")))
            }
        }
    }

    fn volumes(&self) -> Result<Vec<String>> {
        let volumes: Vec<String> =
            self.process().volumes.iter().flatten().map(|(path, _)| path.clone()).collect();
        match volumes.iter().find(|path| !path.starts_with('/') || path.split('/').any(|part| part == "..")) {
            Some(path) => Err(Error::invalid_argument(format!("the volume {path:?} is no absolute path"))),
            None => Ok(volumes),
        }
    }

    /// What the image says of itself. A label wins (conversion.md, "Annotation Fields"), unless it would command the runtime.
    fn annotations(&self) -> BTreeMap<String, String> {
        let process = self.process();
        let joined = |names: Vec<&str>| Some(names.join(",")).filter(|text| !text.is_empty());
        let ports = process.exposed_ports.iter().flatten().map(|(port, _)| port.as_str()).collect();
        let features = self.os_features.iter().flatten().map(String::as_str).collect();
        let mut annotations = BTreeMap::new();
        for (name, value) in [
            ("os", self.os.clone()),
            ("architecture", self.architecture.clone()),
            ("variant", self.variant.clone()),
            ("os.version", self.os_version.clone()),
            ("os.features", joined(features)),
            ("author", self.author.clone()),
            ("created", self.created.clone()),
            ("stopSignal", process.stop_signal.clone()),
            ("exposedPorts", joined(ports)),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                annotations.insert(format!("org.opencontainers.image.{name}"), value);
            }
        }
        let is_command = |key: &String| COMMANDS.iter().any(|prefix| key.starts_with(prefix));
        annotations.extend(process.labels.clone().into_iter().flatten().filter(|(key, _)| !is_command(key)));
        annotations
    }

    /// The configuration, and the user whom a container without root does not get.
    pub(super) fn convert(
        &self,
        options: &BundleOptions,
        accounts: &Accounts,
        is_rootless: bool,
    ) -> Result<(Value, Option<String>)> {
        let process = self.process();
        let wanted = options.user.as_deref().or(process.user.as_deref()).unwrap_or_default();
        let mut user = accounts.user(wanted)?;
        let mut left_out_user = None;
        if is_rootless {
            // There is one user in there: who runs it, as root.
            let root = accounts.user("0:0")?;
            if (user.uid, user.gid) != (0, 0) {
                left_out_user = Some(wanted.to_owned());
            }
            (user.uid, user.gid, user.additional) = (0, 0, Vec::new());
            user.home = root.home;
        }
        let mut environment = self.environment(options)?;
        if let Some(home) = &user.home
            && !environment.iter().any(|variable| variable.starts_with("HOME="))
        {
            environment.push(format!("HOME={home}"));
        }
        let is_terminal = options.streams == Streams::Terminal;
        if is_terminal && !environment.iter().any(|variable| variable.starts_with("TERM=")) {
            environment.push("TERM=xterm".into());
        }
        let mut mounts = mounts(is_rootless);
        for path in self.volumes()? {
            let is_bound = options.binds.iter().any(|bind| bind.destination == path);
            if !is_bound && accounts.is_vacant(&path) {
                mounts.push(json!({
                    "destination": path, "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "nodev", "mode=1777"],
                }));
            }
        }
        for bind in &options.binds {
            let access = if bind.access == Access::Read { "ro" } else { "rw" };
            let source = bind.source.to_str().ok_or_else(|| {
                Error::invalid_argument(format!(
                    "{} is no name that a configuration has room for",
                    bind.source.display()
                ))
            })?;
            mounts.push(json!({
                "destination": bind.destination, "type": "bind", "source": source,
                "options": ["rbind", "rprivate", access],
            }));
        }
        let mut linux = json!({
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        });
        if is_rootless {
            let own = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
            linux["uidMappings"] = own(rustix::process::geteuid().as_raw());
            linux["gidMappings"] = own(rustix::process::getegid().as_raw());
        } else {
            linux["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        }
        if let Some(namespaces) = linux["namespaces"].as_array_mut() {
            namespaces.push(json!({ "type": if is_rootless { "user" } else { "network" } }));
        }
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": is_terminal,
                "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.additional },
                "args": self.arguments(options)?,
                "env": environment,
                "cwd": self.directory(options)?,
                "capabilities": {
                    "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
                },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
                "noNewPrivileges": true,
            },
            "root": { "path": "rootfs" },
            "mounts": mounts,
            "annotations": self.annotations(),
            "linux": linux,
        });
        Ok((config, left_out_user))
    }
}

/// What every container has mounted (containerd: `defaultMounts`; runc: `specconv.ToRootless`).
fn mounts(is_rootless: bool) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !is_rootless {
        // The group of terminals, which only root may give something to.
        terminals.push("gid=5");
    }
    let system = if is_rootless {
        // The host's network goes with the host's view of it.
        mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"])
    } else {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &terminals),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        system,
        mount("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ]
}
