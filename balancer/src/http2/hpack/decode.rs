//! Reading header blocks.

use std::collections::VecDeque;

use super::huffman;
use super::table::{self, FIRST_DYNAMIC};
use super::{BadBlock, Field, Name, TABLE_SIZE};

/// What is known of a peer's table.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    entries: VecDeque<Field>,
    size: usize,
    /// As the peer wants it, within what we allow.
    max: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { entries: VecDeque::new(), size: 0, max: TABLE_SIZE }
    }
}

impl Decoder {
    /// Gives each field of a whole block to `each`, in order.
    pub(in crate::http2) fn decode(&mut self, block: &[u8], mut each: impl FnMut(&Field)) -> Result<(), BadBlock> {
        let mut block = Block(block);
        let mut is_begun = false;
        while let Some(first) = block.0.first().copied() {
            if first & 0xe0 == 0x20 {
                // A change of the table's size comes before all fields (section 4.2).
                let max = block.integer(5)?;
                if is_begun || max > TABLE_SIZE {
                    return Err(BadBlock);
                }
                self.max = max;
                self.evict(0);
                continue;
            }
            is_begun = true;
            if first & 0x80 != 0 {
                let index = block.integer(7)?;
                each(self.entry(index)?);
                continue;
            }
            let is_kept = first & 0x40 != 0;
            let index = block.integer(if is_kept { 6 } else { 4 })?;
            let mut field = self.literal(&mut block, index)?;
            if is_kept {
                each(&field);
                self.keep(field);
            } else {
                if first & 0x10 != 0
                    && let Some(value) = &mut field.value
                {
                    // Whoever passes it on must not keep it either (section 6.2.3).
                    value.set_sensitive(true);
                }
                each(&field);
            }
        }
        Ok(())
    }

    fn literal(&self, block: &mut Block<'_>, index: usize) -> Result<Field, BadBlock> {
        let (name, length) = match index {
            0 => block.text(|name| (Name::from_bytes(name), name.len()))?,
            index => self.entry(index).map(|entry| (entry.name.clone(), entry.name_length))?,
        };
        block.text(|value| Field::new(name, length, value))
    }

    fn entry(&self, index: usize) -> Result<&Field, BadBlock> {
        match index.checked_sub(FIRST_DYNAMIC) {
            None => table::entry(index),
            Some(nth) => self.entries.get(nth),
        }
        .ok_or(BadBlock)
    }

    fn keep(&mut self, field: Field) {
        self.evict(field.size);
        // One that is larger than the table empties it (section 4.4).
        if field.size <= self.max {
            self.size += field.size;
            self.entries.push_front(field);
        }
    }

    /// Drops the oldest until there is room for `more`.
    fn evict(&mut self, more: usize) {
        while self.size + more > self.max
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

/// What is left of a block.
struct Block<'a>(&'a [u8]);

thread_local! {
    /// Where strings are put together.
    static TEXT: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Block<'_> {
    fn byte(&mut self) -> Result<u8, BadBlock> {
        let (first, rest) = self.0.split_first().ok_or(BadBlock)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer that begins in the last `prefix` bits of a byte (section 5.1).
    fn integer(&mut self, prefix: u32) -> Result<usize, BadBlock> {
        let most = (1usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Ok(value);
        }
        // No index and no length here needs more than four bytes.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadBlock)
    }

    /// A string (section 5.2).
    fn text<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<T, BadBlock> {
        let is_huffman = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(BadBlock)?;
        self.0 = rest;
        if !is_huffman {
            return Ok(read(bytes));
        }
        TEXT.with_borrow_mut(|text| {
            text.clear();
            huffman::decode(bytes, text).map_err(|_| BadBlock)?;
            Ok(read(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, BadBlock> {
        let mut fields = Vec::new();
        decoder.decode(block, |field| {
            let value = field.value.as_ref().map_or("-", |value| value.to_str().unwrap());
            let name = match &field.name {
                Name::Field(name) => name.to_string(),
                pseudo => format!("{pseudo:?}"),
            };
            fields.push(format!("{name}: {value}"));
        })?;
        Ok(fields)
    }

    /// RFC 7541 appendix C.3 and C.4: the same requests, plain and in Huffman's code.
    #[test]
    fn the_examples_of_the_specification_are_read() {
        let plain = ["828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865"];
        let huffman = ["828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf"];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::default();
            let first = ["Method: GET", "Scheme: http", "Path: /", "Authority: www.example.com"];
            assert_eq!(fields(&mut decoder, &hex(blocks[0])).unwrap(), first);
            assert_eq!(decoder.size, 57);
            let second = fields(&mut decoder, &hex(blocks[1])).unwrap();
            assert_eq!((&second[..4], second[4].as_str()), (&first.map(String::from)[..], "cache-control: no-cache"));
            assert_eq!(decoder.size, 110);
        }
    }

    /// Appendix C.5, with its table of 256 bytes: old entries go.
    #[test]
    fn the_oldest_entries_go() {
        let mut decoder = Decoder::default();
        let blocks = [
            "3fe101 4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
        ];
        assert_eq!(fields(&mut decoder, &hex(blocks[0])).unwrap()[0], "Status: 302");
        assert_eq!(decoder.size, 222);
        let second = fields(&mut decoder, &hex(blocks[1])).unwrap();
        assert_eq!((second[0].as_str(), second[3].as_str()), ("Status: 307", "location: https://www.example.com"));
        assert_eq!(decoder.size, 222);
        assert_eq!(fields(&mut decoder, &hex("20 be")), Err(BadBlock), "the table is empty now");
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for bad in [
            "80",             // index 0
            "be",             // an entry that is not there
            "40",             // ends in its middle
            "40 01",          // ends in a name
            "40 01 61 05 61", // ends in a value
            "82 20",          // a new size behind a field
            "3fe21f",         // 4097 bytes
            "ff ffffffff0f",  // an integer beyond all bounds
            "7f ffffffffff",
            "00 81 fe 00", // no Huffman code
        ] {
            assert_eq!(fields(&mut Decoder::default(), &hex(bad)), Err(BadBlock), "{bad}");
        }
        assert_eq!(fields(&mut Decoder::default(), &hex("3fe11f 82")).unwrap(), ["Method: GET"], "4096 is allowed");
    }

    /// A bad field spoils its own request; whoever names the fields around it by their index finds them.
    #[test]
    fn a_bad_field_leaves_the_table_in_order() {
        let mut decoder = Decoder::default();
        let block = [&b"\x40\x01a\x011"[..], b"\x40\x01B\x012", b"\x40\x01c\x01\n", b"\x40\x01d\x014"].concat();
        assert_eq!(fields(&mut decoder, &block).unwrap(), ["a: 1", "Bad: 2", "c: -", "d: 4"]);
        assert_eq!(fields(&mut decoder, &[0xc1, 0xbe]).unwrap(), ["a: 1", "d: 4"]);
        assert_eq!(fields(&mut decoder, b"\x0f\x30\x015").unwrap(), ["c: 5"], "its name is good");
        let before = decoder.size;
        fields(&mut decoder, b"\x7f\x00\x015").unwrap();
        assert_eq!(decoder.size, before + 34, "c: 5");
    }

    #[test]
    fn one_that_is_too_large_empties_the_table() {
        let mut decoder = Decoder::default();
        fields(&mut decoder, b"\x40\x01a\x011").unwrap();
        let mut block = b"\x40\x01b\x7f".to_vec();
        block.extend([0x81, 0x1f]);
        block.extend(vec![b'x'; 127 + 1 + (0x1f << 7)]);
        fields(&mut decoder, &block).unwrap();
        assert_eq!((decoder.size, decoder.entries.len()), (0, 0));
    }

    #[test]
    fn what_is_never_to_be_kept_is_marked() {
        let mut sensitive = Vec::new();
        let block = b"\x10\x01a\x011\x00\x01b\x012";
        Decoder::default().decode(block, |field| sensitive.push(field.value.as_ref().unwrap().is_sensitive())).unwrap();
        assert_eq!(sensitive, [true, false]);
    }
}
