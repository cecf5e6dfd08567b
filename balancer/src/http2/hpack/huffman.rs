//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B), to read what peers write. Nothing is
//! written in it: it costs more time than the bytes are worth, and every peer must read plain text too.

/// A string that is no Huffman code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotHuffman;

/// How many bits the code of each symbol has. The code is canonical, so they are all of it: codes count up
/// by length, and within a length by symbol.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];

const LONGEST: usize = 30;

/// Of the symbols by code: those of one length lie together.
struct Code {
    symbols: [u8; 256],
    /// Where the symbols of a length begin.
    at: [u16; LONGEST + 1],
    /// The first code of a length, and the first beyond it, from the left of 32 bits.
    first: [u32; LONGEST + 1],
    beyond: [u32; LONGEST + 1],
    /// By the first eight bits: the symbol and its length, or 0 for a longer code.
    short: [(u8, u8); 256],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut made = Code {
        symbols: [0; 256],
        at: [0; LONGEST + 1],
        first: [0; LONGEST + 1],
        beyond: [0; LONGEST + 1],
        short: [(0, 0); 256],
    };
    let (mut length, mut count, mut next) = (1, 0, 0u32);
    while length <= LONGEST {
        made.at[length] = count as u16;
        made.first[length] = next;
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                made.symbols[count] = symbol as u8;
                count += 1;
                if length <= 8 {
                    let mut at = (next >> 24) as usize;
                    while at < ((next as u64 + (1 << (32 - length))) >> 24) as usize {
                        made.short[at] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                next += 1 << (32 - length);
            }
            symbol += 1;
        }
        made.beyond[length] = next;
        length += 1;
    }
    made
}

/// The symbol that `bits` begin with, and its length; none for the end of the string, which is no symbol.
fn symbol(bits: u32) -> Option<(u8, usize)> {
    let (symbol, length) = CODE.short[(bits >> 24) as usize];
    if length > 0 {
        return Some((symbol, usize::from(length)));
    }
    let length = (9..=LONGEST).find(|length| bits < CODE.beyond[*length])?;
    let nth = (bits - CODE.first[length]) >> (32 - length);
    Some((CODE.symbols[usize::from(CODE.at[length]) + nth as usize], length))
}

/// Puts what `bytes` say behind `text`.
pub(super) fn decode(bytes: &[u8], text: &mut Vec<u8>) -> Result<(), NotHuffman> {
    // A code has five bits at least.
    text.reserve(bytes.len() * 8 / 5);
    let mut rest = bytes.iter();
    // The bits at hand, from the left.
    let (mut bits, mut count) = (0u64, 0usize);
    loop {
        while count <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        match symbol((bits >> 32) as u32) {
            Some((symbol, length)) if length <= count => {
                text.push(symbol);
                bits <<= length;
                count -= length;
            }
            // What is left is the beginning of the end's code, which is all ones, and no whole byte.
            _ if count < 8 && bits == !(u64::MAX >> count) => return Ok(()),
            _ => return Err(NotHuffman),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Result<Vec<u8>, NotHuffman> {
        let mut text = Vec::new();
        decode(bytes, &mut text).map(|()| text)
    }

    /// RFC 7541 appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_specification_are_read() {
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(text(&www).as_deref(), Ok(&b"www.example.com"[..]));
        assert_eq!(text(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).as_deref(), Ok(&b"no-cache"[..]));
        assert_eq!(text(&[0x64, 0x02]).as_deref(), Ok(&b"302"[..]));
        assert_eq!(text(b"").as_deref(), Ok(&b""[..]));
    }

    /// Every symbol, by the code that its place among the lengths gives it, between two others.
    #[test]
    fn every_symbol_is_read() {
        let mut codes = [(0u32, 0usize); 256];
        let mut next = 0u64;
        for length in 1..=LONGEST {
            for (symbol, _) in LENGTHS.iter().enumerate().filter(|(_, l)| usize::from(**l) == length) {
                codes[symbol] = ((next >> (32 - length)) as u32, length);
                next += 1 << (32 - length);
            }
        }
        assert_eq!(next, (1 << 32) - 4, "the end of the string is the last code, of 30 bits");
        for symbol in 0..=255u8 {
            let mut bits = String::new();
            for symbol in [b'a', symbol, b'z'] {
                let (code, length) = codes[usize::from(symbol)];
                bits += &format!("{code:0length$b}");
            }
            bits += &"1".repeat((8 - bits.len() % 8) % 8);
            let bytes: Vec<u8> =
                (0..bits.len() / 8).map(|at| u8::from_str_radix(&bits[8 * at..8 * at + 8], 2).unwrap()).collect();
            assert_eq!(text(&bytes).as_deref(), Ok(&[b'a', symbol, b'z'][..]));
        }
    }

    #[test]
    fn padding_is_short_and_all_ones() {
        // '0' is 00000.
        assert_eq!(text(&[0b0000_0111]).as_deref(), Ok(&b"0"[..]));
        assert_eq!(text(&[0b0000_0110]), Err(NotHuffman));
        assert_eq!(text(&[0b0000_0111, 0xff]), Err(NotHuffman), "a whole byte of it");
        assert_eq!(text(&[0xff]), Err(NotHuffman));
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xff]), Err(NotHuffman), "the end is no symbol");
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xfc, 0xff]), Err(NotHuffman));
    }
}
