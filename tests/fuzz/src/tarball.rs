//! Tar archives put together by hand, so that they can be wrong where they are meant to be, and repaired where the fuzzer has broken what is
//! of no interest: a reader that stops at the first wrong sum sees nothing of what comes after it.

/// The length of a record.
const RECORD: usize = 512;

/// Where the sum of a header is.
const SUM: std::ops::Range<usize> = 148..156;

/// An archive in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tarball(Vec<u8>);

impl Tarball {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(name, b'0', "", content.as_ref())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(name, b'5', "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', target, b"")
    }

    /// Records of PAX for the entry that follows.
    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        self.entry("pax", b'x', "", &pax(records))
    }

    /// Records of PAX for all entries that follow.
    pub(crate) fn pax_global(self, records: &[(&str, &str)]) -> Self {
        self.entry("pax", b'g', "", &pax(records))
    }

    /// GNU's way to give the entry that follows a long name (`L`) or link (`K`).
    pub(crate) fn long(self, flag: u8, text: &str) -> Self {
        self.entry("././@LongLink", flag, "", format!("{text}\0").as_bytes())
    }

    pub(crate) fn entry(self, name: &str, flag: u8, link: &str, content: &[u8]) -> Self {
        self.with(name, flag, link, content, |_| ())
    }

    /// Adds an entry whose header may be changed before it is summed up.
    pub(crate) fn with(
        mut self,
        name: &str,
        flag: u8,
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut [u8; RECORD]),
    ) -> Self {
        let mut header = [0; RECORD];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, if flag == b'5' { "0000755\0" } else { "0000644\0" });
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, "00000001750\0");
        put(157, link);
        put(257, "ustar\x0000");
        header[156] = flag;
        change(&mut header);
        sum(&mut header);
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(RECORD), 0);
        self
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * RECORD, 0);
        self.0
    }
}

/// Records of the form `LENGTH KEY=VALUE\n`, where the length is that of the whole record.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut len = rest.len() + 1;
        while len != rest.len() + len.to_string().len() {
            len = rest.len() + len.to_string().len();
        }
        text.push_str(&format!("{len}{rest}"));
    }
    text.into_bytes()
}

fn sum(header: &mut [u8]) {
    header[SUM].fill(b' ');
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Sets the sums of all headers right, as far as they can be found.
pub(crate) fn repair(archive: &mut [u8]) {
    let mut at = 0_usize;
    while let Some(header) = at.checked_add(RECORD).and_then(|end| archive.get_mut(at..end)) {
        let mut len = 0_usize;
        if header.iter().any(|byte| *byte != 0) {
            sum(header);
            let digits = header[124..136].iter().skip_while(|byte| **byte == b' ');
            let digits = digits.take_while(|byte| (b'0'..=b'7').contains(byte));
            len = digits
                .fold(0, |len: usize, digit| len.saturating_mul(8).saturating_add(usize::from(digit - b'0')));
        }
        at = len
            .checked_next_multiple_of(RECORD)
            .and_then(|len| at.checked_add(RECORD + len))
            .unwrap_or(usize::MAX);
    }
}
