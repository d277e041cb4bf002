//! The variant of an ARM processor, from what the Linux kernel says about it.
//!
//! The words are those of `/proc/cpuinfo` and `uname -m`, and the table is that of containerd (`platforms`,
//! `cpuinfo_linux.go`). This file only reads text, deliberately: where it comes from is for the detection of the host.

/// The variant that the text of `/proc/cpuinfo` names; `None` if it names none that is known.
///
/// The first processor is taken for all. `is_32_bit` says whether this program is one for 32-bit ARM.
pub(crate) fn from_cpuinfo(cpuinfo: &str, is_32_bit: bool) -> Option<&'static str> {
    let architecture = field(cpuinfo, "cpu architecture")?;
    let old_raspberry_pi = || {
        // Their kernel says 7 of a processor that is a 6; the model name does not lie.
        let prefix = "armv6-compatible";
        field(cpuinfo, "model name").is_some_and(|model| {
            model.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        })
    };
    match architecture.to_ascii_lowercase().as_str() {
        "8" | "aarch64" => Some("v8"),
        "7" if is_32_bit && old_raspberry_pi() => Some("v6"),
        "7" | "7m" | "?(12)" | "?(13)" | "?(14)" | "?(15)" | "?(16)" | "?(17)" => Some("v7"),
        "6" | "6tej" => Some("v6"),
        "5" | "5t" | "5te" | "5tej" => Some("v5"),
        "4" | "4t" => Some("v4"),
        "3" => Some("v3"),
        _ => None,
    }
}

/// The variant that the machine name of uname(2) names, such as `armv7l`; `None` if it names none that is known.
pub(crate) fn from_machine(machine: &str) -> Option<&'static str> {
    let machine = machine.to_ascii_lowercase();
    if machine == "aarch64" {
        return Some("v8");
    }
    match machine.strip_prefix("armv")?.bytes().next()? {
        b'8' => Some("v8"),
        b'7' => Some("v7"),
        b'6' => Some("v6"),
        b'5' => Some("v5"),
        b'4' => Some("v4"),
        b'3' => Some("v3"),
        _ => None,
    }
}

/// The first value of a field of `/proc/cpuinfo`, whose name is compared without regard to case.
fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo() {
        for (architecture, expected) in [
            ("8", Some("v8")),
            ("AArch64", Some("v8")),
            ("7", Some("v7")),
            ("7M", Some("v7")),
            ("?(12)", Some("v7")),
            ("?(13)", Some("v7")),
            ("?(14)", Some("v7")),
            ("?(15)", Some("v7")),
            ("?(16)", Some("v7")),
            ("?(17)", Some("v7")),
            ("6", Some("v6")),
            ("6TEJ", Some("v6")),
            ("5", Some("v5")),
            ("5T", Some("v5")),
            ("5TE", Some("v5")),
            ("5TEJ", Some("v5")),
            ("4", Some("v4")),
            ("4T", Some("v4")),
            ("3", Some("v3")),
            ("?(11)", None),
            ("9", None),
            ("", None),
        ] {
            let text = format!("processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: {architecture}\n");
            assert_eq!(from_cpuinfo(&text, true), expected, "{architecture}");
        }
        assert_eq!(from_cpuinfo("", true), None);
        assert_eq!(from_cpuinfo("model name\t: AMD EPYC\nflags : x\n", true), None);
        assert_eq!(from_cpuinfo("CPU architecture: 7\n\nCPU architecture: 8\n", true), Some("v7"));
    }

    #[test]
    fn a_raspberry_pi_that_says_7_and_is_a_6() {
        for (model, is_32_bit, expected) in [
            ("ARMv6-compatible processor rev 7 (v6l)", true, "v6"),
            ("ARMv6-compatible processor rev 7 (v6l)", false, "v7"),
            ("ARMv7 Processor rev 4 (v7l)", true, "v7"),
            ("armv6", true, "v7"),
            ("üüüüüüüüüüüüü", true, "v7"),
        ] {
            let text = format!("model name : {model}\nCPU architecture: 7\n");
            assert_eq!(from_cpuinfo(&text, is_32_bit), Some(expected), "{model}");
        }
    }

    #[test]
    fn machine() {
        for (name, expected) in [
            ("aarch64", Some("v8")),
            ("armv8l", Some("v8")),
            ("ARMv7l", Some("v7")),
            ("armv7", Some("v7")),
            ("armv6l", Some("v6")),
            ("armv5tejl", Some("v5")),
            ("armv4tl", Some("v4")),
            ("armv3", Some("v3")),
            ("armv9", None),
            ("armv", None),
            ("arm", None),
            ("x86_64", None),
            ("", None),
        ] {
            assert_eq!(from_machine(name), expected, "{name}");
        }
    }
}
