//! A batch's numbers in device memory, where the kernels read them: one copy a step.

use model::{Batch, CacheFormat, DeviceError, Limits, Span};

use crate::device::{Device, Memory, Pinned};
use crate::kernels::Rows;
use crate::kernels::attention::{MAX_ROWS, Places, splits};
use crate::kernels::attention_prompt::Chunk;
use crate::kernels::embed::NONE;
use crate::prompts::{self, Launch};
use crate::steps::UNDER_WAY;
use crate::stream::Stream;

/// Where the numbers stand, in words from the start: counts (rows, those of generated tokens, which
/// are the first, then of each round of [`Limits::LOGIT_ROWS`] its outputs, its rows of generated
/// tokens, and the splits that attention takes their keys in), token, position, start in `tables`,
/// KV slot of every row, row of every output, which output of the batch before each row's token is;
/// then the splits, and behind the last of them the sequences' block tables one after another.
/// Every list before those has room for `bound` rows, so that a graph recorded for so many finds
/// them whatever the batch; what follows is found from where the splits begin, which is also where
/// `tables` does. At last comes what prompts' launches read, which no graph has: 16-byte aligned.
#[derive(Debug, Clone, Copy)]
struct Layout {
    bound: usize,
    rounds: usize,
    /// Rows of generated tokens at most.
    generated: usize,
}

impl Layout {
    fn new(bound: usize) -> Layout {
        let rounds = bound.div_ceil(Limits::LOGIT_ROWS).max(1);
        Layout { bound, rounds, generated: bound }
    }

    /// Where a round has one of its counts.
    fn count(&self, index: usize, round: usize) -> usize {
        COUNTS + index * self.rounds + round
    }

    /// Start of list `index`, the splits last; 16-byte aligned.
    fn list(&self, index: usize) -> usize {
        let counts = self.count(ROUND_COUNTS, 0).next_multiple_of(4);
        counts + index * self.bound.next_multiple_of(4)
    }
}

/// Where counts stand.
const ROW_COUNT: usize = 0;
const GENERATED_COUNT: usize = 1;
const COUNTS: usize = 2;
/// Counts of a round.
const OUTPUT_COUNT: usize = 0;
const ATTENDED_COUNT: usize = 1;
const SPLIT_COUNT: usize = 2;
const ROUND_COUNTS: usize = 3;
/// Lists.
const TOKENS: usize = 0;
const POSITIONS: usize = 1;
const STARTS: usize = 2;
const SLOTS: usize = 3;
const OUTPUTS: usize = 4;
const CARRIED: usize = 5;
const SPLITS: usize = 6;

/// The memory for batches, and the layout of the latest one.
pub(crate) struct Input {
    staged: [Pinned; UNDER_WAY],
    memory: Memory,
    layout: Layout,
    attended: Vec<(Rows, Places)>,
    prompts: Vec<Launch>,
    /// Keys that prompts' launches have room for.
    room: usize,
}

impl Input {
    /// Room for batches of `rows` rows of so many sequences with `blocks` entries in all block
    /// tables together, and so many splits. A launch of prompts has room for `room` keys.
    pub(crate) fn new(
        device: &Device,
        rows: usize,
        sequences: usize,
        blocks: usize,
        splits: usize,
        room: usize,
    ) -> Result<Input, DeviceError> {
        let layout = Layout::new(rows);
        let lists = (layout.list(SPLITS) + splits + blocks).next_multiple_of(4);
        let bytes = 4 * (lists + prompts::most_words(sequences, rows));
        let staged = [device.allocate_pinned(bytes)?, device.allocate_pinned(bytes)?];
        let memory = device.allocate(bytes)?;
        Ok(Input { staged, memory, layout, attended: Vec::new(), prompts: Vec::new(), room })
    }

    /// Queues the copy of a batch whose lists are laid out for `bound` rows, over a cache of
    /// `format` in blocks of `block_size`. The batch that had this slot before must have ended.
    pub(crate) fn send(
        &mut self,
        stream: &Stream,
        slot: usize,
        batch: &Batch,
        bound: usize,
        block_size: usize,
        format: CacheFormat,
    ) -> Result<(), DeviceError> {
        self.layout = Layout::new(bound);
        let (rows, generated) = (batch.tokens.len(), batch.generated_rows());
        if generated < rows {
            self.layout.generated = generated;
        }
        let own = batch.spans.iter().filter(|span| span.generated);
        let positions: Vec<u32> = own
            .flat_map(|span| (span.position..span.position + span.rows).map(|at| at as u32))
            .collect();
        let of_launches: Vec<Vec<u32>> = positions
            .chunks(MAX_ROWS)
            .map(|own| splits(own, format, stream.device().platform()))
            .collect();
        self.attended = self.launches(&of_launches);
        let splits = of_launches.concat();
        let (mut chunks, mut tables) = (Vec::new(), 0);
        for Span { row, rows, position, blocks, generated } in &batch.spans {
            if !generated {
                let (row, rows, first, table) = (*row, *rows, *position, splits.len() + tables);
                chunks.push(Chunk { row, rows, first, table });
            }
            tables += blocks.len();
        }
        let lists = self.layout.list(SPLITS) + splits.len() + tables;
        let prompts_at = lists.next_multiple_of(4);
        let (prompts, listed) = prompts::launches(&chunks, self.room, self.at(prompts_at));
        self.prompts = prompts;
        let words = if listed.is_empty() { lists } else { prompts_at + listed.len() };
        if rows > bound || 4 * words > self.memory.bytes() {
            return Err(DeviceError(format!(
                "a batch of {rows} rows and {tables} blocks is larger than what was planned for"
            )));
        }
        let bytes = self.staged[slot].as_mut_slice();
        let mut put = |at: usize, value: usize| {
            bytes[4 * at..4 * at + 4].copy_from_slice(&(value as u32).to_ne_bytes());
        };
        put(ROW_COUNT, rows);
        put(GENERATED_COUNT, generated);
        for round in 0..self.layout.rounds {
            let left = batch.outputs.len().saturating_sub(round * Limits::LOGIT_ROWS);
            put(self.layout.count(OUTPUT_COUNT, round), left.min(Limits::LOGIT_ROWS));
            let left = generated.saturating_sub(round * MAX_ROWS);
            put(self.layout.count(ATTENDED_COUNT, round), left.min(MAX_ROWS));
            put(self.layout.count(SPLIT_COUNT, round), of_launches.get(round).map_or(0, Vec::len));
        }
        for (row, &token) in batch.tokens.iter().enumerate() {
            put(self.layout.list(TOKENS) + row, token as usize);
            put(self.layout.list(CARRIED) + row, NONE as usize);
        }
        for carried in &batch.carried {
            put(self.layout.list(CARRIED) + carried.row, carried.output);
        }
        for (i, &split) in splits.iter().enumerate() {
            put(self.layout.list(SPLITS) + i, split as usize);
        }
        let mut start = splits.len();
        for span in &batch.spans {
            for i in 0..span.rows {
                let (row, position) = (span.row + i, span.position + i);
                let block = span.blocks.get(position / block_size).ok_or_else(|| {
                    DeviceError(format!("position {position} of row {row} has no KV block"))
                })?;
                put(self.layout.list(POSITIONS) + row, position);
                put(self.layout.list(STARTS) + row, start);
                let slot = *block as usize * block_size + position % block_size;
                put(self.layout.list(SLOTS) + row, slot);
            }
            for (i, &block) in span.blocks.iter().enumerate() {
                put(self.layout.list(SPLITS) + start + i, block as usize);
            }
            start += span.blocks.len();
        }
        for (i, output) in batch.outputs.iter().enumerate() {
            put(self.layout.list(OUTPUTS) + i, output.row);
        }
        for (i, &word) in listed.iter().enumerate() {
            put(prompts_at + i, word as usize);
        }
        // SAFETY: it is next written when the batch has ended, and lives as long as this.
        unsafe { stream.send(&self.staged[slot], &self.memory, 0, 4 * words)? };
        Ok(())
    }

    fn at(&self, word: usize) -> u64 {
        self.memory.ptr() + 4 * word as u64
    }

    /// The batch's rows.
    pub(crate) fn rows(&self) -> Rows {
        Rows { count: self.at(ROW_COUNT), bound: self.layout.bound }
    }

    /// Those of generated tokens, the first ones.
    pub(crate) fn generated(&self) -> Rows {
        Rows { count: self.at(GENERATED_COUNT), bound: self.layout.generated }
    }

    /// Launches of prompts' chunks, which have the other rows.
    pub(crate) fn prompts(&self) -> &[Launch] {
        &self.prompts
    }

    /// The same rows as launches of attention take them.
    pub(crate) fn attended(&self) -> &[(Rows, Places)] {
        &self.attended
    }

    /// The launches of attention, each with a list of splits.
    fn launches(&self, lists: &[Vec<u32>]) -> Vec<(Rows, Places)> {
        let layout = self.layout;
        let mut splits = self.splits();
        let launch = |round| {
            let first_row = round * MAX_ROWS;
            let rows = Rows {
                count: self.at(layout.count(ATTENDED_COUNT, round)),
                bound: (layout.generated - first_row).min(MAX_ROWS),
            };
            let places = Places {
                first_row,
                positions: self.at(layout.list(POSITIONS) + first_row),
                table_starts: self.at(layout.list(STARTS) + first_row),
                tables: self.tables(),
                split_count: self.at(layout.count(SPLIT_COUNT, round)),
                splits,
            };
            splits += 4 * lists.get(round).map_or(0, Vec::len) as u64;
            (rows, places)
        };
        (0..layout.generated.div_ceil(MAX_ROWS)).map(launch).collect()
    }

    /// The outputs of a round of logits.
    pub(crate) fn outputs(&self, round: usize) -> Rows {
        let left = self.layout.bound - (round * Limits::LOGIT_ROWS).min(self.layout.bound);
        let count = self.at(self.layout.count(OUTPUT_COUNT, round));
        Rows { count, bound: left.min(Limits::LOGIT_ROWS) }
    }

    /// Token of every row; of carried ones once `embed` has run.
    pub(crate) fn tokens(&self) -> u64 {
        self.at(self.layout.list(TOKENS))
    }

    /// Which output of the batch before every row's token is.
    pub(crate) fn carried(&self) -> u64 {
        self.at(self.layout.list(CARRIED))
    }

    /// Position of every row.
    pub(crate) fn positions(&self) -> u64 {
        self.at(self.layout.list(POSITIONS))
    }

    /// KV slot of every row.
    pub(crate) fn slots(&self) -> u64 {
        self.at(self.layout.list(SLOTS))
    }

    /// Row of every output of a round of logits.
    pub(crate) fn output_rows(&self, round: usize) -> u64 {
        self.at(self.layout.list(OUTPUTS) + round * Limits::LOGIT_ROWS)
    }

    /// What starts of block tables count from.
    pub(crate) fn tables(&self) -> u64 {
        self.splits()
    }

    /// The splits.
    fn splits(&self) -> u64 {
        self.at(self.layout.list(SPLITS))
    }
}
