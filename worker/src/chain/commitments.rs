//! What hotkeys committed themselves to on the chain: bytes, and the block that has them.

use subxt::{
    dynamic::Value,
    ext::{
        scale_decode::DecodeAsType,
        scale_value::{Composite, Primitive, ValueDef},
    },
};

use super::{
    Chain, Error, FinalisedAt, Hotkey,
    submit::{Call, call},
};

/// The pallet.
const PALLET: &str = "Commitments";
/// Rows that are read at most: hotkeys that left the subnet leave theirs behind.
const ROWS: usize = 1 << 16;

/// A commitment of one hotkey; the chain keeps its latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Who.
    pub hotkey: [u8; 32],
    /// The block that has it.
    pub block: u64,
    /// To what.
    pub bytes: Vec<u8>,
}

impl Chain {
    /// Commits a registered hotkey to at most 128 bytes, in place of what it committed to before, and waits until that is
    /// final.
    pub async fn commit(&self, hotkey: &Hotkey, netuid: u16, bytes: &[u8]) -> Result<FinalisedAt, Error> {
        let call = commit_call(netuid, bytes);
        let own = hotkey.public();
        let applied = || async {
            let found = self.commitment(netuid, own, self.head().hash).await?;
            Ok(found.is_some_and(|found| found.bytes == bytes))
        };
        self.submit(hotkey, &call, applied).await
    }

    /// What one hotkey is committed to; `None` also where that is no plain bytes.
    pub async fn commitment(&self, netuid: u16, hotkey: [u8; 32], at: [u8; 32]) -> Result<Option<Committed>, Error> {
        let row: Option<Registration> = self.fetch(PALLET, "CommitmentOf", (netuid, hotkey), at).await?;
        Ok(row.and_then(|row| row.of(hotkey)))
    }

    /// What all hotkeys of a subnet are committed to, as far as it is plain bytes.
    pub async fn commitments(&self, netuid: u16, at: [u8; 32]) -> Result<Vec<Committed>, Error> {
        let rows = self.rows::<(u16, [u8; 32]), Registration>(PALLET, "CommitmentOf", (netuid,), at, ROWS).await?;
        Ok(rows.into_iter().filter_map(|((_, hotkey), row)| row.of(hotkey)).collect())
    }
}

/// `Commitments.CommitmentOf`; fields that are not named here are skipped.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Registration {
    block: u32,
    info: Info,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Info {
    fields: Vec<Value>,
}

impl Registration {
    /// Its first piece of data, if that is `RawN`.
    fn of(self, hotkey: [u8; 32]) -> Option<Committed> {
        let ValueDef::Variant(data) = self.info.fields.into_iter().next()?.value else { return None };
        if !data.name.starts_with("Raw") {
            return None;
        }
        let inner = data.values.into_values().next()?;
        let ValueDef::Composite(Composite::Unnamed(bytes)) = inner.value else { return None };
        let byte = |value: Value| match value.value {
            ValueDef::Primitive(Primitive::U128(byte)) => u8::try_from(byte).ok(),
            _ => None,
        };
        let bytes = bytes.into_iter().map(byte).collect::<Option<_>>()?;
        Some(Committed { hotkey, block: self.block.into(), bytes })
    }
}

pub(super) fn commit_call(netuid: u16, bytes: &[u8]) -> (&'static str, Call) {
    let data = Value::unnamed_variant(format!("Raw{}", bytes.len()), [Value::from_bytes(bytes)]);
    let info = Value::named_composite([("fields", Value::unnamed_composite([data]))]);
    call(PALLET, "set_commitment", vec![Value::u128(netuid.into()), info])
}
