//! Whole models of miners: found by what their hotkeys are committed to on the chain, believed when the bytes are those.

use bistro_protocol::{
    artifact::{self, Form},
    hotkey::Hotkey,
    mechanism::loss_wins::Commitment,
    object::Kind,
    tensors::Tensors,
};

use crate::{bucket::Object, failure::Failure, node::Node};

/// A model out of the bucket.
pub struct Model {
    /// The window of its key.
    pub window: u64,
    /// Its parameters.
    pub parameters: Tensors,
}

/// The model that a hotkey is committed to now; `None` where it is committed to none, or its file is not what it committed
/// to.
pub async fn fetch(node: &Node, hotkey: &Hotkey) -> Result<Option<Model>, Failure> {
    let committed = node.chain.commitment(node.settings.netuid, hotkey.0, node.head().hash).await?;
    let Some(commitment) = committed.and_then(|found| Commitment::from_bytes(&found.bytes)) else { return Ok(None) };
    read(node, hotkey, &commitment).await
}

/// The model that a hotkey has committed itself to; `None` where its file is gone or another.
pub async fn read(node: &Node, hotkey: &Hotkey, commitment: &Commitment) -> Result<Option<Model>, Failure> {
    let key = node.key(hotkey, commitment.window, Kind::Model);
    let check = |found: &Object| {
        let file = artifact::decode(&found.bytes).map_err(|_| ())?;
        let bound = commitment.binds(&node.agreement, hotkey, blake3::hash(&found.bytes).as_bytes());
        let ours = file.is_for(&node.agreement, hotkey, commitment.window, Kind::Model, file.base);
        let parameters = Form::Dense.read(file.content, &node.shape).filter(|p| bound && ours && p.all_finite());
        parameters.map(|parameters| Model { window: commitment.window, parameters }).ok_or(())
    };
    let found = match node.read(&key, artifact::max_bytes(&node.shape), check).await {
        Err(error) if error.is_the_authors() => Some(Err(())),
        found => found?,
    };
    if matches!(found, Some(Err(()))) {
        tracing::warn!(key, "the model in the bucket is not what its hotkey is committed to: not used");
    }
    Ok(found.and_then(Result::ok))
}

/// Hotkeys by what the chain pays them, the most first; those that it does not pay are left out.
pub async fn paid(node: &Node) -> Result<Vec<Hotkey>, Failure> {
    let (netuid, at) = (node.settings.netuid, node.head().hash);
    let incentive = node.chain.incentive(netuid, at).await?;
    let share = |uid: u16| incentive.get(usize::from(uid)).copied().unwrap_or(0);
    let mut neurons = node.chain.neurons(netuid, at).await?;
    neurons.retain(|neuron| share(neuron.uid) > 0);
    neurons.sort_by_key(|neuron| (std::cmp::Reverse(share(neuron.uid)), neuron.uid));
    Ok(neurons.into_iter().map(|neuron| Hotkey(neuron.hotkey)).collect())
}
