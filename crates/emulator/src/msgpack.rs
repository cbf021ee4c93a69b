//! MessagePack, as far as code-object metadata uses it.

use serde_json::{Map, Value};

const SHORT: &str = "ends inside a value";

/// Parses one value.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, &'static str> {
    value(&mut { bytes }, 0)
}

fn take<'a>(b: &mut &'a [u8], n: usize) -> Result<&'a [u8], &'static str> {
    let (head, tail) = b.split_at_checked(n).ok_or(SHORT)?;
    *b = tail;
    Ok(head)
}

fn number(b: &mut &[u8], n: usize) -> Result<u64, &'static str> {
    Ok(take(b, n)?.iter().fold(0, |x, b| x << 8 | u64::from(*b)))
}

fn text(b: &mut &[u8], n: usize) -> Result<Value, &'static str> {
    Ok(Value::String(String::from_utf8_lossy(take(b, n)?).into_owned()))
}

fn list(b: &mut &[u8], n: u64, depth: u32) -> Result<Value, &'static str> {
    (0..n).map(|_| value(b, depth + 1)).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn map(b: &mut &[u8], n: u64, depth: u32) -> Result<Value, &'static str> {
    let mut m = Map::new();
    for _ in 0..n {
        let key = value(b, depth + 1)?;
        let key = key.as_str().ok_or("key is not a string")?.to_owned();
        m.insert(key, value(b, depth + 1)?);
    }
    Ok(Value::Object(m))
}

fn value(b: &mut &[u8], depth: u32) -> Result<Value, &'static str> {
    if depth > 32 {
        return Err("nested too deeply");
    }
    let t = number(b, 1)? as u8;
    Ok(match t {
        0..=0x7f => t.into(),
        0x80..=0x8f => return map(b, u64::from(t & 15), depth),
        0x90..=0x9f => return list(b, u64::from(t & 15), depth),
        0xa0..=0xbf => return text(b, usize::from(t & 31)),
        0xc0 => Value::Null,
        0xc2 => false.into(),
        0xc3 => true.into(),
        0xcc => number(b, 1)?.into(),
        0xcd => number(b, 2)?.into(),
        0xce => number(b, 4)?.into(),
        0xcf => number(b, 8)?.into(),
        0xd0 => (number(b, 1)? as i8).into(),
        0xd1 => (number(b, 2)? as i16).into(),
        0xd2 => (number(b, 4)? as i32).into(),
        0xd3 => (number(b, 8)? as i64).into(),
        0xd9..=0xdb => {
            let n = number(b, 1 << (t - 0xd9))? as usize;
            return text(b, n);
        }
        0xdc | 0xdd => {
            let n = number(b, 2 << (t - 0xdc))?;
            return list(b, n, depth);
        }
        0xde | 0xdf => {
            let n = number(b, 2 << (t - 0xde))?;
            return map(b, n, depth);
        }
        0xe0..=0xff => (t as i8).into(),
        _ => return Err("unexpected type"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let bytes = [0x82, 0xa1, b'a', 0x92, 1, 0xff, 0xa1, b'b', 0xcd, 1, 0];
        assert_eq!(parse(&bytes).unwrap(), serde_json::json!({"a": [1, -1], "b": 256}));
        assert_eq!(parse(&bytes[..5]), Err(SHORT));
    }
}
