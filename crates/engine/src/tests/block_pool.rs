//! Which of the pool's blocks are found, by whom.

use crate::block_pool::BlockPool;

const BLOCK_SIZE: usize = 4;

/// Publishes all full blocks of a sequence whose first `prompt_len` tokens are of a prompt, and
/// gives them back.
fn publish(pool: &mut BlockPool, tokens: &[u32], prompt_len: usize) -> Vec<u32> {
    let mut blocks = Vec::new();
    for tokens in tokens.chunks_exact(BLOCK_SIZE) {
        let block = pool.allocate().expect("an empty block");
        let block = pool.publish(None, &blocks, tokens, prompt_len, block);
        blocks.push(block);
    }
    pool.release(&blocks);
    pool.check([].iter()).expect("a sound pool");
    blocks
}

fn tokens() -> Vec<u32> {
    (0..12).collect()
}

#[test]
fn an_answers_blocks_are_not_a_prompts() {
    let mut pool = BlockPool::new(10, BLOCK_SIZE);
    let tokens = tokens();
    let answered = publish(&mut pool, &tokens, BLOCK_SIZE);
    assert_eq!(pool.find(None, &tokens, BLOCK_SIZE), answered, "computed again");
    assert_eq!(pool.find(None, &tokens, tokens.len()), answered[..1], "the next turn's prompt");
    assert_eq!(pool.find(None, &tokens, 2 * BLOCK_SIZE), answered[..1], "half of it");

    // The next turn computes the answer as a prompt: both stay.
    let turn = publish(&mut pool, &tokens, tokens.len());
    assert_eq!(turn[0], answered[0]);
    assert!(turn[1..].iter().all(|block| !answered.contains(block)), "{turn:?}, {answered:?}");
    assert_eq!(pool.find(None, &tokens, tokens.len()), turn);
    assert_eq!(pool.find(None, &tokens, BLOCK_SIZE), answered);
}

#[test]
fn a_block_across_a_prompts_end_is_found_by_those_whose_prompt_ends_there() {
    let mut pool = BlockPool::new(10, BLOCK_SIZE);
    let tokens = tokens();
    let across = publish(&mut pool, &tokens, 6);
    assert_eq!(pool.find(None, &tokens, 6), across);
    for prompt_len in [4, 5, 7, 8, 12] {
        assert_eq!(pool.find(None, &tokens, prompt_len), across[..1], "a prompt of {prompt_len}");
    }
    // In the first block as well.
    assert!(pool.find(None, &tokens, 3).is_empty());
    // Behind other prompts' ends, the same generated tokens are others' too.
    let other = publish(&mut pool, &tokens, 5);
    assert_eq!(other[0], across[0]);
    assert!(other[1..].iter().all(|block| !across.contains(block)), "{other:?}, {across:?}");
    assert_eq!(pool.find(None, &tokens, 6), across);
}
