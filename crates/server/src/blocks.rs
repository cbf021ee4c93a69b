use text::Delta;

/// A stretch of one kind within an answer, for the routes that answer with lists of such.
#[derive(Debug, PartialEq)]
pub(crate) enum Block {
    Reasoning(String),
    Text(String),
    Call { id: String, name: String, arguments: String },
}

/// What a delta did to the blocks: always to the last one.
#[derive(Debug)]
pub(crate) struct Growth {
    /// The block began with this delta.
    pub(crate) began: bool,
    /// What was appended to it.
    pub(crate) fragment: String,
}

/// An answer's blocks, in order.
#[derive(Debug, Default)]
pub(crate) struct Blocks(pub(crate) Vec<Block>);

impl Blocks {
    pub(crate) fn add(&mut self, delta: Delta) -> Growth {
        match (self.0.last_mut(), delta) {
            (Some(Block::Reasoning(all)), Delta::Reasoning(fragment))
            | (Some(Block::Text(all)), Delta::Content(fragment))
            | (
                Some(Block::Call { arguments: all, .. }),
                Delta::ToolCallArguments { fragment, .. },
            ) => {
                all.push_str(&fragment);
                Growth { began: false, fragment }
            }
            (_, Delta::Reasoning(fragment)) => {
                self.begin(Block::Reasoning(fragment.clone()), fragment)
            }
            (_, Delta::ToolCallStart { id, name, .. }) => {
                self.begin(Block::Call { id, name, arguments: String::new() }, String::new())
            }
            // Arguments come behind their call's start, so this is content.
            (_, Delta::Content(fragment) | Delta::ToolCallArguments { fragment, .. }) => {
                self.begin(Block::Text(fragment.clone()), fragment)
            }
        }
    }

    fn begin(&mut self, block: Block, fragment: String) -> Growth {
        self.0.push(block);
        Growth { began: true, fragment }
    }
}
