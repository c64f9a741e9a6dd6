// An "npu" device for stock torch (PrivateUse1) and the engine of the strict double: see ../README.md.
//
// The device allocates host memory and offers copies and views; every other operator is refused by name. An engine holds
// a TorchScript program; running it leaves NaN in the result until the stream it ran on has been synchronised.
#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/custom_class.h>
#include <torch/library.h>
#include <torch/script.h>
#include <torch/version.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <vector>

namespace {
constexpr auto NPU = c10::DeviceType::PrivateUse1;

struct State {
  int64_t device = -1;  // set_device was never called
  bool finalized = false;
  int64_t stream = 0;
  std::map<int64_t, std::vector<std::pair<at::Tensor, at::Tensor>>> pending;  // stream -> (result on npu, its real content)
  std::mutex mutex;
};
State& state() {
  static State* only = new State();
  return *only;
}

void event(const std::string& name) {
  if (const char* path = std::getenv("STRICT_AIE_EVENTS")) std::ofstream(path, std::ios::app) << name << "\n";
}

void check_not_finalized(const std::string& what) {
  TORCH_CHECK(!state().finalized, what, " after finalize(): the npu of this process is gone");
}
void check_in_use(const char* what) {
  check_not_finalized(what);
  TORCH_CHECK(state().device >= 0, what, " before set_device()");
}

void release(void* memory) { std::free(memory); }

struct HostMemory final : at::Allocator {
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 3
  at::DataPtr allocate(size_t bytes) const override {
#else
  at::DataPtr allocate(size_t bytes) override {
#endif
    check_in_use("allocation on npu");
    void* memory = bytes ? std::malloc(bytes) : nullptr;
    return {memory, memory, &release, c10::Device(NPU, static_cast<c10::DeviceIndex>(state().device))};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 3
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
#endif
};
HostMemory memory;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::Device here() const { return c10::Device(NPU, state().device < 0 ? 0 : static_cast<c10::DeviceIndex>(state().device)); }
  c10::DeviceType type() const override { return NPU; }
  c10::Device exchangeDevice(c10::Device) const override { return here(); }
  c10::Device getDevice() const override { return here(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 8; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, c10::optional<at::ScalarType> dtype,
                         c10::optional<at::Layout>, c10::optional<at::Device> device, c10::optional<bool>) {
  check_in_use("allocation on npu");
  TORCH_CHECK(!device || !device->has_index() || device->index() == state().device, "npu:", int(device->index()),
              " is not the device of this process, set_device(", state().device, ") is");
  auto type = c10::scalarTypeToTypeMeta(dtype.value_or(at::kFloat));
  int64_t elements = 1;
  for (size_t i = 0; i < size.size(); i++) elements = size[i] ? elements + (size[i] - 1) * stride[i] : 0;
  auto bytes = elements * static_cast<int64_t>(type.itemsize());
  auto storage = c10::Storage(c10::Storage::use_byte_size_t(), bytes, memory.allocate(bytes), &memory, false);
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  return tensor;
}

at::Tensor empty(at::IntArrayRef size, c10::optional<at::ScalarType> dtype, c10::optional<at::Layout> layout,
                 c10::optional<at::Device> device, c10::optional<bool> pinned, c10::optional<at::MemoryFormat>) {
  std::vector<int64_t> stride(size.size(), 1);
  for (int64_t i = static_cast<int64_t>(size.size()) - 2; i >= 0; i--) stride[i] = stride[i + 1] * std::max<int64_t>(size[i + 1], 1);
  return empty_strided(size, stride, dtype, layout, device, pinned);
}

// The same memory seen as a CPU tensor: only here and in Engine::run does anything look inside.
at::Tensor host(const at::Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), at::TensorOptions().dtype(tensor.dtype()));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  check_in_use("copy");
  TORCH_CHECK(from.scalar_type() == to.scalar_type(), "the npu device copies only: it cannot make ", to.scalar_type(), " of ",
              from.scalar_type(), "; change the dtype on the cpu");
  event(to.device().is_cpu() ? "copy_to_cpu" : "copy_to_npu");
  host(to).copy_(host(from));
  return to;
}

at::Tensor view(const at::Tensor& self, at::IntArrayRef size) { return at::native::view(self, size); }
at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride, c10::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

void refuse(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK(false, op.schema().operator_name().name, " on npu: the device copies tensors and views them, nothing else; move the "
              "tensor to the cpu first");
}

void synchronize(int64_t stream) {
  check_in_use("synchronize");
  event("synchronize");
  std::lock_guard<std::mutex> lock(state().mutex);
  for (auto& [result, content] : state().pending[stream]) host(result).copy_(content);
  state().pending[stream].clear();
}
int64_t set_stream(int64_t stream) {
  std::swap(stream, state().stream);
  return stream;
}
void set_device(int64_t device) {
  check_not_finalized("set_device");
  event("set_device");
  state().device = device;
}
void finalize() {
  TORCH_CHECK(!state().finalized, "finalize() twice");
  event("finalize");
  state().finalized = true;
}

using Shape = std::vector<int64_t>;

// What compile() makes: a program, and for each gear the shapes it was compiled for (min and max where it is a range).
struct Engine : torch::CustomClassHolder {
  std::string program, soc;
  std::vector<std::vector<Shape>> lowest, highest;  // gear -> input -> shape
  std::vector<int64_t> dtypes;
  std::unique_ptr<torch::jit::Module> loaded;
  using Packed = std::tuple<std::string, std::string, std::vector<std::vector<Shape>>, std::vector<std::vector<Shape>>, std::vector<int64_t>>;

  explicit Engine(Packed packed) {
    check_not_finalized("an engine");
    std::tie(program, soc, lowest, highest, dtypes) = std::move(packed);
  }
  Packed unpack() const { return {program, soc, lowest, highest, dtypes}; }

  bool fits(const std::vector<at::Tensor>& inputs) const {
    for (size_t gear = 0; gear < lowest.size(); gear++) {
      bool all = true;
      for (size_t i = 0; i < inputs.size() && all; i++) {
        const auto &low = lowest[gear][i], &high = highest[gear][i];
        all = inputs[i].dim() == static_cast<int64_t>(low.size());
        for (size_t d = 0; all && d < low.size(); d++)
          all = low[d] <= inputs[i].size(d) && (high[d] < 0 || inputs[i].size(d) <= high[d]);
      }
      if (all) return true;
    }
    return false;
  }

  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs) {
    check_in_use("forward");
    const char* chip = std::getenv("STRICT_AIE_SOC");
    TORCH_CHECK(soc == (chip ? chip : "Ascend310P3"), "the engine was compiled for ", soc, ", this chip is another");
    TORCH_CHECK(inputs.size() == dtypes.size(), "MIE08E000001: ", inputs.size(), " inputs, compiled for ", dtypes.size());
    for (size_t i = 0; i < inputs.size(); i++) {
      TORCH_CHECK(inputs[i].device().type() == NPU, "MIE08E000001: input ", i, " lies on ", inputs[i].device(), ", not on npu");
      TORCH_CHECK(static_cast<int64_t>(inputs[i].scalar_type()) == dtypes[i], "MIE08E000001: input ", i, " is ", inputs[i].scalar_type());
      TORCH_CHECK(inputs[i].is_contiguous(), "input ", i, " is not contiguous");
    }
    TORCH_CHECK(fits(inputs), "MIE08E000001: the inputs' shapes are none that the engine was compiled for");
    event("forward");
    if (!loaded) {
      std::istringstream stream(program);
      loaded = std::make_unique<torch::jit::Module>(torch::jit::load(stream));
    }
    torch::InferenceMode no_gradients;
    std::vector<c10::IValue> arguments;
    for (const auto& input : inputs) arguments.emplace_back(host(input).clone());
    auto answer = loaded->forward(arguments);
    std::vector<c10::IValue> answers{answer};
    if (answer.isTuple()) answers = answer.toTuple()->elements();
    std::vector<at::Tensor> results;
    std::lock_guard<std::mutex> lock(state().mutex);
    for (const auto& one : answers) {
      auto content = one.toTensor().contiguous();
      auto result = empty(content.sizes(), content.scalar_type(), {}, inputs[0].device(), {}, {});
      auto poison = host(result);
      if (poison.is_floating_point()) poison.fill_(std::numeric_limits<double>::quiet_NaN());
      else poison.fill_(-77);
      state().pending[state().stream].emplace_back(result, content);
      results.push_back(result);
    }
    return results;
  }
};
}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("view", &view);
  m.impl("as_strided", &as_strided);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&refuse>()); }

TORCH_LIBRARY(strict_aie, m) {
  m.def("synchronize", &synchronize);
  m.def("set_stream", &set_stream);
  m.def("set_device", &set_device);
  m.def("finalize", &finalize);
  m.def("event", &event);
  m.def("check_not_finalized", &check_not_finalized);
  m.class_<Engine>("Engine")
      .def(torch::init([](Engine::Packed) -> c10::intrusive_ptr<Engine> {
        TORCH_CHECK(false, "MIE08E010101: this engine was made by hand; compile() and torch.jit.load make engines");
      }))
      .def("run", [](const c10::intrusive_ptr<Engine>& self, std::vector<at::Tensor> inputs) { return self->run(inputs); })
      .def_pickle([](const c10::intrusive_ptr<Engine>& self) { return self->unpack(); },
                  [](Engine::Packed packed) { return c10::make_intrusive<Engine>(std::move(packed)); });
  m.def("engine", [](Engine::Packed packed) { return c10::make_intrusive<Engine>(std::move(packed)); });  // for compile()
}
