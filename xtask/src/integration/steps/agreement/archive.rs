//! Archives that programs might read differently, made of headers of which every byte is chosen here. The same seed gives the same archive.

use crate::random::Noise;

/// Everything in a tar is a multiple of it.
const BLOCK: usize = 512;

/// Names, among them the same one in several spellings, and some below others that may be files, directories or links.
const NAMES: &[&str] = &[
    "a", "b", "c", "./a", "/b", "d", "d/", "./d/", "d/x", "d/y", "d//x", "d/./y", "d/e", "d/e/", "d/e/z",
    "l", "l/x", "m", "m/y", "f/g/h", "...", "..a", "t\u{e9}", "-x", "a b",
];

/// Names that nobody should write.
const BAD_NAMES: &[&str] = &["../up", "d/../a", "d/..", "..", "", ".", "/", "l/../a"];

/// Where links lead to.
const TARGETS: &[&str] = &["a", "d", "./d", "d/e", "b", "l", "d/x", "missing"];

/// Where links lead to that GNU tar makes at the end only, in the place of what it takes for its own by then. So nothing else has
/// their names. What is absolute is nowhere.
const FAR_TARGETS: &[&str] = &["/nowhere-at-all/x", "../d", "../../nowhere-at-all", "/"];

/// Begins the names of such links.
const FAR: &[u8] = b"far-";

/// What a header says before everything else that is said of its entry.
#[derive(Clone)]
struct Header {
    name: Vec<u8>,
    prefix: Vec<u8>,
    link: Vec<u8>,
    flag: u8,
    mode: u32,
    owner: u32,
    size: Vec<u8>,
    mtime: u32,
    magic: &'static [u8; 8],
}

const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";
const OLD: &[u8; 8] = b"\0\0\0\0\0\0\0\0";

impl Header {
    fn new(name: &[u8], flag: u8, size: usize) -> Self {
        Self {
            name: name.to_vec(),
            prefix: Vec::new(),
            link: Vec::new(),
            flag,
            mode: 0o644,
            owner: 0,
            size: octal(size),
            mtime: 1_000_000,
            magic: USTAR,
        }
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put(&mut block[..100], &self.name);
        put(&mut block[100..108], format!("{:07o}\0", self.mode).as_bytes());
        put(&mut block[108..116], format!("{:07o}\0", self.owner).as_bytes());
        put(&mut block[116..124], format!("{:07o}\0", self.owner).as_bytes());
        put(&mut block[124..136], &self.size);
        put(&mut block[136..148], format!("{:011o}\0", self.mtime).as_bytes());
        block[156] = self.flag;
        put(&mut block[157..257], &self.link);
        block[257..265].copy_from_slice(self.magic);
        put(&mut block[345..500], &self.prefix);
        block
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let len = bytes.len().min(field.len());
    field[..len].copy_from_slice(&bytes[..len]);
}

fn octal(number: usize) -> Vec<u8> {
    format!("{number:011o}\0").into_bytes()
}

fn base256(number: usize) -> Vec<u8> {
    let mut field = vec![0x80, 0, 0, 0];
    field.extend((number as u64).to_be_bytes());
    field
}

fn sum(block: &mut [u8; BLOCK], of: impl Fn(u8) -> i64) {
    block[148..156].fill(b' ');
    let sum: i64 = block.iter().map(|byte| of(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive in the making.
pub(super) struct Archive {
    noise: Noise,
    pub(super) bytes: Vec<u8>,
    /// What it is made of, for messages.
    pub(super) parts: Vec<String>,
}

impl Archive {
    /// The archive that belongs to `seed`.
    pub(super) fn of(seed: u64) -> Self {
        let mut archive = Self { noise: Noise::new(seed), bytes: Vec::new(), parts: Vec::new() };
        // Most have one or two oddities, so that many are good for all programs.
        let entries = 2 + archive.noise.word() % 8;
        for _ in 0..entries {
            if archive.noise.once_in(4) {
                archive.odd();
            } else {
                archive.plain();
            }
        }
        archive.end();
        archive
    }

    fn add(&mut self, header: &Header, content: &[u8]) {
        let mut block = header.block();
        sum(&mut block, i64::from);
        self.add_block(&block, content);
        self.parts.push(format!(
            "{:?} {:?} {:?} {:?}",
            char::from(header.flag),
            String::from_utf8_lossy(&header.name),
            String::from_utf8_lossy(&header.link),
            String::from_utf8_lossy(&header.size)
        ));
    }

    fn add_block(&mut self, block: &[u8; BLOCK], content: &[u8]) {
        self.bytes.extend_from_slice(block);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    fn pax(&mut self, flag: u8, records: &[(&str, &[u8])]) {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = [b" ", key.as_bytes(), b"=", *value, b"\n"].concat();
            let mut len = rest.len() + 1;
            while len != rest.len() + len.to_string().len() {
                len = rest.len() + len.to_string().len();
            }
            text.extend(len.to_string().into_bytes());
            text.extend(rest);
        }
        self.add(&Header::new(b"PaxHeaders/x", flag, text.len()), &text);
        self.parts.push(String::from_utf8_lossy(&text).into_owned());
    }

    /// A long name or a long link, as GNU writes it.
    fn long(&mut self, flag: u8, name: &[u8]) {
        let mut header = Header::new(b"././@LongLink", flag, name.len());
        header.magic = GNU;
        self.add(&header, name);
    }

    fn name(&mut self) -> &'static str {
        let names = if self.noise.once_in(40) { BAD_NAMES } else { NAMES };
        self.noise.one_of::<&'static str>(names)
    }

    fn content(&mut self) -> Vec<u8> {
        let len = *self.noise.one_of(&[0_usize, 1, 511, 512, 513, 1024]);
        (0..len).map(|_| b'a' + (self.noise.word() % 26) as u8).collect()
    }

    /// A header of some kind, all of which programs write.
    fn header(&mut self) -> (Header, Vec<u8>) {
        let name = self.name();
        let flag = *self.noise.one_of(b"000005551226\0");
        let content = if matches!(flag, 0 | b'0') { self.content() } else { Vec::new() };
        // The names of files do not end so.
        let name = if flag == b'5' { name } else { name.trim_end_matches('/') };
        let mut header = Header::new(name.as_bytes(), flag, content.len());
        header.mode = *self.noise.one_of(&[0o644, 0o755, 0o600, 0o4755, 0o1777]);
        header.owner = *self.noise.one_of(&[0, 0, 7, 1000]);
        header.magic = *self.noise.one_of(&[USTAR, USTAR, GNU, OLD]);
        if matches!(flag, b'1' | b'2') {
            header.link = self.noise.one_of(TARGETS).as_bytes().to_vec();
        }
        if flag == b'2' && self.noise.once_in(3) {
            header.name = [FAR, self.parts.len().to_string().as_bytes()].concat();
            header.link = self.noise.one_of(FAR_TARGETS).as_bytes().to_vec();
        }
        (header, content)
    }

    fn plain(&mut self) {
        let (header, content) = self.header();
        self.add(&header, &content);
    }

    /// An entry with something about it that some programs write, or that nobody should.
    fn odd(&mut self) {
        let (mut header, content) = self.header();
        if header.name.starts_with(FAR) {
            return self.add(&header, &content);
        }
        let other = self.noise.one_of(NAMES).trim_end_matches('/').as_bytes();
        let long = [&[b'n'; 120][..], b"/", &[b'o'; 90]].concat();
        let size = content.len().to_string();
        let size = size.as_bytes();
        match self.noise.word() % 34 {
            0 => self.pax(b'x', &[("path", other)]),
            1 => self.pax(b'x', &[("path", &long), ("mtime", b"77.5")]),
            2 => self.pax(b'x', &[("path", b"")]),
            3 => self.pax(b'x', &[("linkpath", other)]),
            4 => {
                // The size is told elsewhere.
                self.pax(b'x', &[("size", size)]);
                header.size = octal(0);
            }
            5 => {
                self.pax(b'x', &[("size", size)]);
                self.long(b'L', b"a\0");
                header.size = octal(0);
            }
            6 => self.pax(b'x', &[("path", b"a"), ("path", other)]),
            7 => {
                self.pax(b'x', &[("path", b"a")]);
                self.pax(b'x', &[("path", b"b")]);
            }
            8 => self.long(b'L', &[&long[..], b"\0"].concat()),
            9 => self.long(b'L', other),
            10 => self.long(b'L', &[other, b"\0junk"].concat()),
            11 => {
                self.long(b'L', b"a\0");
                self.pax(b'x', &[("path", other)]);
            }
            12 => self.long(b'K', &[other, b"\0"].concat()),
            13 => {
                self.long(b'K', &[&long[..], b"\0"].concat());
                self.long(b'L', &[other, b"\0"].concat());
            }
            14 => header.prefix = b"d".to_vec(),
            15 => header.prefix = [&long[..100], b"/p"].concat(),
            16 => header.prefix = b"14726746410\x0014726746410\0".to_vec(),
            17 => header.name.push(b'/'),
            18 => header.flag = *self.noise.one_of(b"7\0ZVS"),
            19 => {
                header.name.push(b'/');
                header.flag = 0;
            }
            20 => header.size = octal(512),
            21 => header.size = base256(content.len()),
            22 => header.size = format!("{:>11o} ", content.len()).into_bytes(),
            23 => header.size = format!("\0{:010o}\0", content.len()).into_bytes(),
            24 => header.size = format!("\0 {:09o}\0", content.len()).into_bytes(),
            25 => header.size = format!("{:o}", content.len()).into_bytes(),
            26 => header.size = format!("{:o}\x000007", content.len()).into_bytes(),
            27 => self.pax(b'g', &[("comment", b"x")]),
            28 => self.pax(b'g', &[("path", other)]),
            29 => self.pax(b'x', &[("path", &[other, b"/"].concat())]),
            30 => return self.signed(header, &content),
            31 => return self.sparse(other),
            32 => {
                let mut block = header.block();
                sum(&mut block, |byte| i64::from(byte) + i64::from(byte == b'0'));
                self.add_block(&block, &content);
                self.parts.push("with a wrong checksum".to_owned());
                return;
            }
            _ => {
                self.bytes.resize(self.bytes.len() + BLOCK, 0);
                self.parts.push("a block of zeros".to_owned());
            }
        }
        self.add(&header, &content);
    }

    /// A checksum of signed bytes, as some programs have written it.
    fn signed(&mut self, mut header: Header, content: &[u8]) {
        header.name.extend("\u{e9}".bytes());
        let mut block = header.block();
        sum(&mut block, |byte| i64::from(byte.cast_signed()));
        self.add_block(&block, content);
        self.parts.push(format!("signed {:?}", String::from_utf8_lossy(&header.name)));
    }

    /// A sparse file of one of the newer kinds. A piece that does not fill whole blocks is followed by another one by some programs only.
    fn sparse(&mut self, name: &[u8]) {
        let first = *self.noise.one_of(&[512_usize, 1024, 5]);
        let content = [&vec![b'f'; first][..], b"second"].concat();
        let stored_map = format!("2\n100\n{first}\n3000\n6\n");
        let map = format!("100,{first},3000,6");
        let made_up = b"GNUSparseFile.0/made-up";
        if self.noise.once_in(2) {
            self.pax(
                b'x',
                &[
                    ("GNU.sparse.size", b"3006"),
                    ("GNU.sparse.name", name),
                    ("GNU.sparse.map", map.as_bytes()),
                ],
            );
            self.add(&Header::new(made_up, b'0', content.len()), &content);
        } else {
            self.pax(
                b'x',
                &[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", name),
                    ("GNU.sparse.realsize", b"3006"),
                ],
            );
            let mut stored = stored_map.into_bytes();
            stored.resize(BLOCK, 0);
            stored.extend(content);
            self.add(&Header::new(made_up, b'0', stored.len()), &stored);
        }
    }

    fn end(&mut self) {
        let zeros = *self.noise.one_of(&[1024, 1024, 1024, 1024, 10240, 512, 0]);
        self.bytes.resize(self.bytes.len() + zeros, 0);
        if self.noise.once_in(20) {
            let junk = Header::new(b"behind-the-end", b'5', 0);
            self.add(&junk, b"");
        }
        if self.noise.once_in(30) {
            let len = self.bytes.len();
            self.bytes.truncate(len - len.min(700));
            self.parts.push("cut short".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_archive() {
        assert_eq!(Archive::of(1).bytes, Archive::of(1).bytes);
        assert_ne!(Archive::of(1).bytes, Archive::of(2).bytes);
    }
}
