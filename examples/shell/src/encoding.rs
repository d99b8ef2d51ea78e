//! Converts output from a legacy encoding to UTF-8, or the other way.

use encoding_rs::{CoderResult, Decoder, Encoder, EncoderResult, Encoding, UTF_8};

/// Finds an encoding by any label that the web knows for it: `gbk`, `shift_jis`, `latin1`.
pub fn by_label(label: &str) -> Result<&'static Encoding, String> {
    Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        "no encoding has this label; gbk, big5, shift_jis, euc-kr, latin1 are some".into()
    })
}

/// Finds an encoding for writing: some encodings of the web can only be read.
pub fn writable_by_label(label: &str) -> Result<&'static Encoding, String> {
    let encoding = by_label(label)?;
    if encoding.output_encoding() != encoding {
        return Err(format!("{} can be read, and not written", encoding.name()));
    }
    Ok(encoding)
}

/// Turns one stream of bytes, which may be cut anywhere, into another encoding. A character without an equivalent becomes
/// U+FFFD, or `?` in an encoding without U+FFFD.
pub struct Transcoder {
    decoder: Decoder,
    encoder: Option<Encoder>,
}

impl Transcoder {
    /// Makes a transcoder from this encoding to UTF-8, for a terminal.
    pub fn to_utf8(from: &'static Encoding) -> Self {
        // A byte order mark is an ordinary character here: a command may print it anywhere.
        Self { decoder: from.new_decoder_without_bom_handling(), encoder: None }
    }

    /// Makes a transcoder from UTF-8 to this encoding, for a client that expects it.
    pub fn from_utf8(to: &'static Encoding) -> Self {
        Self { decoder: UTF_8.new_decoder_without_bom_handling(), encoder: Some(to.new_encoder()) }
    }

    /// Converts a piece. The beginning of an incomplete character is kept for the next piece.
    pub fn turn(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.turn_up_to(bytes, false)
    }

    /// Converts the rest at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        self.turn_up_to(&[], true)
    }

    fn turn_up_to(&mut self, mut bytes: &[u8], last: bool) -> Vec<u8> {
        let mut text = String::new();
        loop {
            let room = self.decoder.max_utf8_buffer_length(bytes.len()).unwrap_or(0);
            text.reserve(room.max(16));
            let (result, read, _) = self.decoder.decode_to_string(bytes, &mut text, last);
            bytes = &bytes[read..];
            if result == CoderResult::InputEmpty {
                break;
            }
        }
        match &mut self.encoder {
            None => text.into_bytes(),
            Some(encoder) => encode(encoder, &text, last),
        }
    }
}

fn encode(encoder: &mut Encoder, mut text: &str, last: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let room = encoder.max_buffer_length_from_utf8_without_replacement(text.len());
        bytes.reserve(room.unwrap_or(0).max(16));
        let (result, read) =
            encoder.encode_from_utf8_to_vec_without_replacement(text, &mut bytes, last);
        text = &text[read..];
        match result {
            EncoderResult::InputEmpty => return bytes,
            EncoderResult::OutputFull => {}
            EncoderResult::Unmappable(_) => bytes.push(b'?'),
        }
    }
}
