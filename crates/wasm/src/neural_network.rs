//! `wasi:nn` for ONNX models, on the processor, by tract: a library in Rust, since a static
//! binary cannot load the shared libraries of the other backends.

use std::sync::Arc;

use tract_onnx::prelude::{
    Datum, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable,
    Tensor as TractTensor, tvec,
};
use wasmtime::{Linker, component};
use wasmtime_wasi_nn::backend::{
    BackendError, BackendExecutionContext, BackendFromDir, BackendGraph, BackendInner, Id,
    NamedTensor,
};
use wasmtime_wasi_nn::wit::WasiNnView;
use wasmtime_wasi_nn::wit::types::{ExecutionTarget, GraphEncoding, TensorType};
use wasmtime_wasi_nn::{
    Backend, ExecutionContext, Graph, InMemoryRegistry, Registry, Tensor, wit, witx,
};

use crate::state::State;

/// The models that a store has loaded. Components and modules have different interfaces.
pub(crate) struct NeuralNetwork {
    component: wit::WasiNnCtx,
    module: witx::WasiNnCtx,
}

impl Default for NeuralNetwork {
    fn default() -> Self {
        // Nothing is there to be found by its name: a guest loads its models from its files.
        let registry = || Registry::from(InMemoryRegistry::new());
        Self {
            component: wit::WasiNnCtx::new([Backend::from(Onnx)], registry()),
            module: witx::WasiNnCtx::new([Backend::from(Onnx)], registry()),
        }
    }
}

pub(crate) fn add_to_component_linker(
    linker: &mut component::Linker<State>,
) -> wasmtime::Result<()> {
    wit::add_to_linker(linker, |state| {
        let (network, table) = state.neural_network_and_table();
        WasiNnView::new(table, &mut network.component)
    })
}

pub(crate) fn add_to_module_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    witx::add_to_linker(linker, |state| &mut state.neural_network.module)
}

fn failed(error: impl std::fmt::Display) -> BackendError {
    BackendError::BackendAccess(wasmtime::Error::msg(format!("{error:#}")))
}

struct Onnx;

impl BackendInner for Onnx {
    fn encoding(&self) -> GraphEncoding {
        GraphEncoding::Onnx
    }

    fn load(&mut self, builders: &[&[u8]], target: ExecutionTarget) -> Result<Graph, BackendError> {
        let [mut bytes] = *builders else {
            return Err(BackendError::InvalidNumberOfBuilders(1, builders.len()));
        };
        if !matches!(target, ExecutionTarget::Cpu) {
            return Err(failed("models run on the processor (cpu) alone"));
        }
        let model = tract_onnx::onnx()
            .model_for_read(&mut bytes)
            .map_err(failed)?;
        let graph: Box<dyn BackendGraph> = Box::new(Model(Arc::new(model)));
        Ok(graph.into())
    }

    fn as_dir_loadable(&mut self) -> Option<&mut dyn BackendFromDir> {
        None
    }
}

struct Model(Arc<InferenceModel>);

impl BackendGraph for Model {
    fn init_execution_context(&self) -> Result<ExecutionContext, BackendError> {
        let context: Box<dyn BackendExecutionContext> = Box::new(Execution {
            inputs: names(&self.0, self.0.inputs.iter()),
            outputs: names(&self.0, self.0.outputs.iter()),
            model: Arc::clone(&self.0),
            given: Vec::new(),
            results: Vec::new(),
        });
        Ok(context.into())
    }
}

fn names<'a>(
    model: &InferenceModel,
    outlets: impl Iterator<Item = &'a tract_onnx::prelude::OutletId>,
) -> Vec<String> {
    outlets
        .map(|outlet| match model.outlet_label(*outlet) {
            Some(label) => label.to_owned(),
            None => model.node(outlet.node).name.clone(),
        })
        .collect()
}

struct Execution {
    model: Arc<InferenceModel>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// What `set-input` has given, by the number of the input.
    given: Vec<(usize, Tensor)>,
    results: Vec<Tensor>,
}

/// The number of what is meant among `names`; a name may also be its number as text.
fn find(names: &[String], id: &Id) -> Result<usize, BackendError> {
    let found = match id {
        Id::Index(index) => Some(*index as usize),
        Id::Name(name) => names
            .iter()
            .position(|known| known == name)
            .or_else(|| name.parse().ok()),
    };
    found.filter(|index| *index < names.len()).ok_or_else(|| {
        failed(format!(
            "the model has no tensor {id:?}; it has {}",
            names.join(", ")
        ))
    })
}

impl Execution {
    fn run(&mut self) -> Result<(), BackendError> {
        let mut model = (*self.model).clone();
        let mut given: Vec<Option<TractTensor>> = vec![None; self.inputs.len()];
        for (index, tensor) in &self.given {
            let value = to_tract(tensor)?;
            // A model may leave its shapes open; the tensors close them.
            let fact = InferenceFact::dt_shape(f32::datum_type(), value.shape());
            model.set_input_fact(*index, fact).map_err(failed)?;
            given[*index] = Some(value);
        }
        let mut inputs = tvec!();
        for (index, value) in given.into_iter().enumerate() {
            let name = &self.inputs[index];
            let value = value.ok_or_else(|| failed(format!("input {name} is missing")))?;
            inputs.push(value.into());
        }
        let outputs = model
            .into_optimized()
            .and_then(|model| model.into_runnable())
            .and_then(|model| model.run(inputs))
            .map_err(failed)?;
        self.results = outputs
            .iter()
            .map(|value| from_tract(value))
            .collect::<Result<_, _>>()?;
        Ok(())
    }
}

impl BackendExecutionContext for Execution {
    fn set_input(&mut self, id: Id, tensor: &Tensor) -> Result<(), BackendError> {
        let index = find(&self.inputs, &id)?;
        self.given.retain(|(known, _)| *known != index);
        self.given.push((index, tensor.clone()));
        Ok(())
    }

    fn compute(
        &mut self,
        inputs: Option<Vec<NamedTensor>>,
    ) -> Result<Option<Vec<NamedTensor>>, BackendError> {
        let Some(inputs) = inputs else {
            self.run()?;
            return Ok(None);
        };
        self.given.clear();
        for NamedTensor { name, tensor } in inputs {
            self.set_input(Id::Name(name), &tensor)?;
        }
        self.run()?;
        let named = self.outputs.iter().zip(&self.results);
        Ok(Some(
            named
                .map(|(name, tensor)| NamedTensor {
                    name: name.clone(),
                    tensor: tensor.clone(),
                })
                .collect(),
        ))
    }

    fn get_output(&mut self, id: Id) -> Result<Tensor, BackendError> {
        let index = find(&self.outputs, &id)?;
        self.results
            .get(index)
            .cloned()
            .ok_or_else(|| failed("there is no output before compute"))
    }
}

fn to_tract(tensor: &Tensor) -> Result<TractTensor, BackendError> {
    if tensor.ty != TensorType::Fp32 {
        return Err(BackendError::UnsupportedTensorType(format!(
            "{:?}: only fp32 is supported",
            tensor.ty
        )));
    }
    let shape: Vec<usize> = tensor
        .dimensions
        .iter()
        .map(|size| *size as usize)
        .collect();
    let numbers: Vec<f32> = tensor
        .data
        .chunks_exact(size_of::<f32>())
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let expected = shape
        .iter()
        .try_fold(size_of::<f32>(), |bytes, size| bytes.checked_mul(*size));
    if expected != Some(tensor.data.len()) {
        return Err(failed(format!(
            "a tensor of the shape {shape:?} has {} bytes",
            tensor.data.len()
        )));
    }
    TractTensor::from_shape(&shape, &numbers).map_err(failed)
}

fn from_tract(value: &TractTensor) -> Result<Tensor, BackendError> {
    let value = value.cast_to::<f32>().map_err(failed)?;
    let numbers = value.to_plain_array_view::<f32>().map_err(failed)?;
    Ok(Tensor {
        dimensions: value.shape().iter().map(|size| *size as u32).collect(),
        ty: TensorType::Fp32,
        data: numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect(),
    })
}
