//! From bytes, in whatever pieces they arrive, to frames and the bytes of LTX files.
//!
//! ```text
//!            frame 1                    length > 0
//! FRAME ───────────────► CHUNK LENGTH ────────────► CHUNK
//!   ▲ │ other frames        │    ▲                    │ all bytes passed on
//!   └─┘                     │    └────────────────────┘
//!   ▲        length 0       │
//!   └───────────────────────┘
//! ```
//!
//! Bytes of LTX files are passed on as they lie in the input, never copied or collected.

use super::{Frame, FrameError, Parsed};

/// What comes next in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame. After [`Frame::Ltx`] come the bytes of its file.
    Frame(Frame),
    /// Bytes of an LTX file; never empty.
    LtxBytes(&'a [u8]),
    /// The LTX file is complete.
    LtxEnd,
}

/// Decodes a stream piece by piece.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    state: State,
    /// The start of a frame or of a chunk's length.
    held: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// Before a frame of which at least `want` bytes are needed.
    Frame {
        want: usize,
    },
    ChunkLength,
    Chunk {
        left: usize,
    },
    #[default]
    Start,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> FrameDecoder {
        FrameDecoder::default()
    }

    /// Takes the next event off the input; `None` once the input is used up.
    ///
    /// # Errors
    /// If the bytes aren't a stream. What follows is undefined then, but doesn't panic.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        loop {
            match self.state {
                State::Start => self.state = State::Frame { want: KIND_LEN },
                State::Frame { want } => {
                    if !self.hold(input, want) {
                        return Ok(None);
                    }
                    match Frame::decode(&self.held)? {
                        Parsed::Short { want } => self.state = State::Frame { want },
                        Parsed::Frame(frame) => {
                            self.held.clear();
                            self.state = match frame {
                                Frame::Ltx { .. } => State::ChunkLength,
                                _ => State::Start,
                            };
                            return Ok(Some(Event::Frame(frame)));
                        }
                    }
                }
                State::ChunkLength => {
                    if !self.hold(input, CHUNK_LENGTH_LEN) {
                        return Ok(None);
                    }
                    let left = self.held.drain(..).fold(0, |n, byte| n << 8 | usize::from(byte));
                    if left == 0 {
                        self.state = State::Start;
                        return Ok(Some(Event::LtxEnd));
                    }
                    self.state = State::Chunk { left };
                }
                State::Chunk { left: 0 } => self.state = State::ChunkLength,
                State::Chunk { left } => {
                    let (now, rest) = input.split_at(left.min(input.len()));
                    if now.is_empty() {
                        return Ok(None);
                    }
                    *input = rest;
                    self.state = State::Chunk { left: left - now.len() };
                    return Ok(Some(Event::LtxBytes(now)));
                }
            }
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// Unless it ended between two frames.
    pub fn finish(&self) -> Result<(), FrameError> {
        let between =
            matches!(self.state, State::Start | State::Frame { .. }) && self.held.is_empty();
        if between { Ok(()) } else { Err(FrameError::Truncated) }
    }

    /// Moves input to what is held until that is `want` bytes long.
    fn hold(&mut self, input: &mut &[u8], want: usize) -> bool {
        let (now, rest) = input.split_at(want.saturating_sub(self.held.len()).min(input.len()));
        self.held.extend_from_slice(now);
        *input = rest;
        self.held.len() >= want
    }
}

const KIND_LEN: usize = 4;
const CHUNK_LENGTH_LEN: usize = 2;
