//! HPACK (RFC 7541): literals without indexing to write, everything to read.

use std::collections::VecDeque;

use crate::huffman;

pub(crate) type Fields = Vec<(String, String)>;

/// The value of the first field called `name`.
pub(crate) fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

pub(crate) fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            encode_length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits, the eighth zero (section 5.1).
fn encode_length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(length as u8);
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(rest as u8 | 128);
        rest >>= 7;
    }
    block.push(rest as u8);
}

#[derive(Debug, Default)]
pub(crate) struct Decoder {
    dynamic: VecDeque<(String, String)>,
    max: Option<usize>,
}

impl Decoder {
    pub(crate) fn decode(&mut self, block: &[u8]) -> Fields {
        let mut at = Cursor { block, at: 0 };
        let mut fields = Vec::new();
        while at.at < block.len() {
            let first = block[at.at];
            if first & 0x80 != 0 {
                let index = at.integer(7);
                fields.push(self.entry(index));
            } else if first & 0xe0 == 0x20 {
                self.max = Some(at.integer(5));
                self.evict();
            } else {
                let indexed = first & 0xc0 == 0x40;
                let index = at.integer(if indexed { 6 } else { 4 });
                let name = if index == 0 { at.text() } else { self.entry(index).0 };
                let field = (name, at.text());
                if indexed {
                    self.dynamic.push_front(field.clone());
                    self.evict();
                }
                fields.push(field);
            }
        }
        fields
    }

    fn entry(&self, index: usize) -> (String, String) {
        match STATIC.get(index - 1) {
            Some((name, value)) => ((*name).to_owned(), (*value).to_owned()),
            None => self.dynamic[index - 1 - STATIC.len()].clone(),
        }
    }

    fn evict(&mut self) {
        let size = |table: &VecDeque<(String, String)>| -> usize {
            table.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
        };
        while size(&self.dynamic) > self.max.unwrap_or(4096) {
            self.dynamic.pop_back();
        }
    }
}

struct Cursor<'a> {
    block: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.block[self.at - 1]
    }

    fn integer(&mut self, prefix: u32) -> usize {
        let max = (1 << prefix) - 1;
        let mut value = usize::from(self.byte()) & max;
        if value < max {
            return value;
        }
        let mut shift = 0;
        loop {
            let byte = self.byte();
            value += usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                return value;
            }
        }
    }

    fn text(&mut self) -> String {
        let huffman = self.block[self.at] & 128 != 0;
        let length = self.integer(7);
        let bytes = &self.block[self.at..self.at + length];
        self.at += length;
        let bytes = if huffman { huffman::decode(bytes) } else { bytes.to_vec() };
        String::from_utf8(bytes).expect("the tests' fields are ASCII")
    }
}

/// Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
