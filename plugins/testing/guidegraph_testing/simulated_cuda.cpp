// A device "cuda:0" for tests, inside a build of torch without CUDA: ordinary memory, on which the CPU's kernels compute.
//
// It refuses what CUDA refuses (tensors of two devices in one operator), and reports each kernel, each copy between host
// and device, and each place where the host waits for the device. One device with one stream: races cannot be seen.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

const c10::Device DEVICE(c10::DeviceType::CUDA, 0);

// ---- Reports: "kernel", "copy" (pinned or on the device), "blocking" (an upload from pageable memory), "wait".

using Listener = void (*)(const char* kind, const char* name);
Listener listener = nullptr;

void report(const char* kind, const std::string& name) {
  if (listener != nullptr) listener(kind, name.c_str());
}

// ---- Memory: blocks of the CPU's allocator under the device's name, and pinned blocks, which are remembered.

void delete_block(void* block) { delete static_cast<c10::DataPtr*>(block); }

c10::DataPtr rename_block(c10::DataPtr&& block, c10::Device device) {
  auto* kept = new c10::DataPtr(std::move(block));
  return {kept->get(), kept, &delete_block, device};
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override { return rename_block(c10::GetCPUAllocator()->allocate(bytes), DEVICE); }
  void copy_data(void* target, const void* source, size_t bytes) const override { std::memcpy(target, source, bytes); }
} device_allocator;

std::mutex pinned_lock;
std::map<const char*, size_t> pinned;  // address and bytes

struct PinnedBlock {
  c10::DataPtr block;
  ~PinnedBlock() {
    std::lock_guard<std::mutex> held(pinned_lock);
    pinned.erase(static_cast<const char*>(block.get()));
  }
};

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* kept = new PinnedBlock{c10::GetCPUAllocator()->allocate(bytes)};
    void* address = kept->block.get();
    std::lock_guard<std::mutex> held(pinned_lock);
    if (address != nullptr) pinned[static_cast<const char*>(address)] = bytes;
    return {address, kept, [](void* block) { delete static_cast<PinnedBlock*>(block); }, c10::Device(c10::kCPU)};
  }
  void copy_data(void* target, const void* source, size_t bytes) const override { std::memcpy(target, source, bytes); }
} pinned_allocator;

bool is_pinned_address(const void* address) {
  std::lock_guard<std::mutex> held(pinned_lock);
  auto after = pinned.upper_bound(static_cast<const char*>(address));
  if (after == pinned.begin()) return false;
  --after;
  return static_cast<const char*>(address) < after->first + after->second;
}

// ---- What torch asks of a device: a guard with one stream, a generator, and the hooks of CUDA.

struct DeviceGuard final : c10::impl::DeviceGuardImplInterface {
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::DeviceType type() const override { return DEVICE.type(); }
  c10::Device getDevice() const override { return DEVICE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  bool queryStream(const c10::Stream&) const override { return true; }
  bool queryEvent(void*) const override { return true; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
  void synchronizeStream(const c10::Stream&) const override { report("wait", "synchronize"); }
  void synchronizeDevice(c10::DeviceIndex) const override { report("wait", "synchronize"); }
};
C10_REGISTER_GUARD_IMPL(CUDA, DeviceGuard)

// As on CUDA, the state is a seed and an offset; each operator that draws moves the offset.
struct DeviceGenerator final : c10::GeneratorImpl {
  uint64_t state[2] = {0, 0};
  explicit DeviceGenerator(uint64_t seed) : GeneratorImpl(DEVICE, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {
    state[0] = seed;
  }
  static c10::DeviceType device_type() { return DEVICE.type(); }
  at::Generator next() {
    auto drawing = at::detail::createCPUGenerator();
    drawing.set_current_seed(state[0] * 0x9E3779B97F4A7C15ULL + state[1] * 0xD1B54A32D192ED03ULL);
    state[1] += 4;
    return drawing;
  }
  void set_current_seed(uint64_t seed) override { state[0] = seed, state[1] = 0; }
  uint64_t current_seed() const override { return state[0]; }
  void set_offset(uint64_t offset) override { state[1] = offset; }
  uint64_t get_offset() const override { return state[1]; }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return state[0];
  }
  void set_state(const c10::TensorImpl& bytes) override {
    TORCH_CHECK(bytes.numel() == sizeof(state), "expected the state of a generator of ", sizeof(state), " bytes");
    std::memcpy(state, bytes.data(), sizeof(state));
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    at::Tensor bytes = at::empty({sizeof(state)}, at::TensorOptions(at::kByte).device(at::kCPU));
    std::memcpy(bytes.mutable_data_ptr(), state, sizeof(state));
    return bytes.getIntrusivePtr();
  }
  DeviceGenerator* clone_impl() const override {
    auto* copy = new DeviceGenerator(state[0]);
    copy->state[1] = state[1];
    return copy;
  }
};

at::Generator& default_generator() {
  static at::Generator generator = at::make_generator<DeviceGenerator>(0);
  return generator;
}

bool is_first_generator = true;  // torch.cuda asks for its default one first
}  // namespace

namespace at {
struct CUDAHooks final : CUDAHooksInterface {  // torch looks for this name
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  Device getDeviceFromPtr(void*) const override { return DEVICE; }
  bool isPinnedPtr(const void* address) const override { return is_pinned_address(address); }
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  Allocator* getCUDADeviceAllocator() const override { return &device_allocator; }
  void deviceSynchronize(DeviceIndex) const override { report("wait", "synchronize"); }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return default_generator(); }
  Generator getNewGenerator(DeviceIndex) const override {
    if (!std::exchange(is_first_generator, false)) return at::make_generator<DeviceGenerator>(0);
    return default_generator();
  }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

namespace {

// ---- Operators: each runs on tensors of the CPU that share the memory of its arguments.

bool is_on_device(const at::Tensor& tensor) { return tensor.defined() && tensor.device() == DEVICE; }

at::Tensor make_like(c10::Storage storage, const at::Tensor& model, c10::DispatchKey key) {
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), model.dtype());
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(model.sizes(), model.strides(), model.storage_offset());
  if (model.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  if (model.is_conj()) tensor._set_conj(true);
  if (model.is_neg()) tensor._set_neg(true);
  return tensor;
}

class SharedCall {
 public:
  // The tensor on the CPU that shares the memory of one on the device; another tensor is returned as it is.
  at::Tensor to_host(const at::Tensor& tensor) {
    if (!is_on_device(tensor)) return tensor;
    for (auto& [on_device, on_host] : tensors_)
      if (on_device.is_same(tensor)) return on_host;
    at::Tensor on_host = make_like(share(tensor.storage()), tensor, c10::DispatchKey::CPU);
    tensors_.emplace_back(tensor, on_host);
    return on_host;
  }

  // The tensor on the device for a result: an argument, a view of one, or the owner of new memory.
  at::Tensor to_device(const at::Tensor& result) {
    if (!result.defined() || is_on_device(result)) return result;
    for (auto& [on_device, on_host] : tensors_)
      if (on_host.is_same(result)) return on_device;
    for (auto& [on_device, on_host] : storages_)
      if (on_host.is_alias_of(result.storage())) return make_like(on_device, result, c10::DispatchKey::CUDA);
    return make_like(adopt(result.storage()), result, c10::DispatchKey::CUDA);
  }

  // Give arguments that the operator wrote, and may have resized, their present shape and memory.
  void finish() {
    for (auto& [on_device, on_host] : tensors_) {
      auto* kept = on_device.storage().unsafeGetStorageImpl();
      if (kept->data() != on_host.storage().data() || kept->nbytes() != on_host.storage().nbytes()) {
        c10::Storage grown = adopt(on_host.storage());
        kept->set_nbytes(grown.nbytes());
        kept->set_data_ptr_noswap(std::move(const_cast<c10::DataPtr&>(grown.data_ptr())));
      }
      if (on_device.sizes() != on_host.sizes() || on_device.strides() != on_host.strides() ||
          on_device.storage_offset() != on_host.storage_offset())
        on_device.unsafeGetTensorImpl()->set_sizes_and_strides(
            on_host.sizes(), on_host.strides(), on_host.storage_offset());
    }
  }

 private:
  c10::Storage share(const c10::Storage& storage) {
    for (auto& [on_device, on_host] : storages_)
      if (on_device.is_alias_of(storage)) return on_host;
    c10::DataPtr borrowed(storage.unsafeGetStorageImpl()->mutable_data(), c10::Device(c10::kCPU));
    c10::Storage on_host(
        c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(borrowed), c10::GetCPUAllocator(), true);
    storages_.emplace_back(storage, on_host);
    return on_host;
  }

  static c10::Storage adopt(const c10::Storage& storage) {
    auto* kept = new c10::Storage(storage);
    c10::DataPtr memory(
        kept->mutable_data(), kept, [](void* owner) { delete static_cast<c10::Storage*>(owner); }, DEVICE);
    return c10::Storage(
        c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(memory), &device_allocator, true);
  }

  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;
  std::vector<std::pair<c10::Storage, c10::Storage>> storages_;
};

const std::set<std::string> NO_KERNEL = {
    "aten::alias", "aten::as_strided", "aten::detach", "aten::empty", "aten::empty_strided", "aten::resize_",
    "aten::_reshape_alias", "aten::set_", "aten::unfold", "aten::view", "aten::view_as_complex", "aten::view_as_real"};
const std::set<std::string> WAITS = {  // their results, or the shapes of these, are read by the host
    "aten::_local_scalar_dense", "aten::_unique2", "aten::bincount", "aten::equal", "aten::is_nonzero", "aten::isin",
    "aten::_linalg_eigh", "aten::_linalg_svd", "aten::masked_select", "aten::nonzero", "aten::repeat_interleave",
    "aten::unique_consecutive", "aten::unique_dim"};
const std::set<std::string> INDEXES = {  // take indices of the CPU, and wait for masks
    "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index",
    "aten::_unsafe_index_put"};
const std::set<std::string> TAKE_NUMBERS = {  // beside those that compute element by element
    "aten::fill_", "aten::floor_divide", "aten::floor_divide_", "aten::lerp", "aten::lerp_", "aten::masked_fill",
    "aten::masked_fill_", "aten::where"};

template <typename Visit>
void visit_tensors(c10::IValue& value, Visit visit) {
  if (value.isTensor()) {
    value = visit(value.toTensor());
  } else if (value.isTensorList()) {
    std::vector<at::Tensor> tensors = value.toTensorVector();
    for (auto& tensor : tensors) tensor = visit(tensor);
    value = std::move(tensors);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> tensors;
    for (const auto& tensor : value.toOptionalTensorVector())
      tensors.push_back(tensor ? std::optional<at::Tensor>(visit(*tensor)) : std::nullopt);
    value = std::move(tensors);
  }
}

bool takes_generator(const c10::Argument& argument) {
  auto optional = argument.type()->cast<c10::OptionalType>();
  return optional && optional->getElementType()->kind() == c10::TypeKind::GeneratorType;
}

void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string name = schema.operator_name().name;
  c10::IValue* arguments = stack->data() + stack->size() - schema.arguments().size();
  const size_t count = schema.arguments().size();

  bool on_device = false, has_mask = false, names_device = false, to_device = false;
  std::vector<at::Tensor> strays;
  for (size_t i = 0; i < count; i++) {
    visit_tensors(arguments[i], [&](const at::Tensor& tensor) {
      on_device |= is_on_device(tensor);
      has_mask |= i > 0 && is_on_device(tensor) && tensor.scalar_type() == at::kBool;
      if (tensor.defined() && tensor.device().type() == c10::kCPU) strays.push_back(tensor);
      return tensor;
    });
    if (arguments[i].isDevice()) names_device = true, to_device = arguments[i].toDevice().type() == DEVICE.type();
  }
  const bool takes_numbers = op.hasTag(at::Tag::pointwise) || TAKE_NUMBERS.count(name);
  for (const auto& stray : strays) {
    const bool is_number = stray.dim() == 0 && (takes_numbers || stray.unsafeGetTensorImpl()->is_wrapped_number());
    TORCH_CHECK(!on_device || is_number || INDEXES.count(name),
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (a tensor of shape ",
        stray.sizes(), " in ", name, ")");
  }
  if (WAITS.count(name) || (has_mask && INDEXES.count(name))) report("wait", name);
  if (!NO_KERNEL.count(name)) report("kernel", name);

  SharedCall call;
  for (size_t i = 0; i < count; i++) {
    auto& value = arguments[i];
    visit_tensors(value, [&](const at::Tensor& tensor) { return call.to_host(tensor); });
    if (value.isDevice()) {
      value = c10::Device(c10::kCPU);
    } else if (value.isGenerator() && value.toGenerator().defined()) {
      at::Generator generator = value.toGenerator();
      TORCH_CHECK(generator.device() == DEVICE, "Expected a 'cuda' device type for generator but found '", generator.device(), "'");
      value = static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->next();
    } else if (value.isNone() && op.hasTag(at::Tag::nondeterministic_seeded) && takes_generator(schema.arguments()[i])) {
      value = static_cast<DeviceGenerator*>(default_generator().unsafeGetGeneratorImpl())->next();
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  call.finish();
  if (names_device ? !to_device : !on_device) return;
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++)
    visit_tensors((*stack)[i], [&](const at::Tensor& tensor) { return call.to_device(tensor); });
}

at::Tensor& copy(at::Tensor& target, const at::Tensor& source, bool non_blocking) {
  const bool up = !is_on_device(source), down = !is_on_device(target);
  const at::Tensor& on_host = up ? source : target;
  const bool is_direct = non_blocking && (up || down) && is_pinned_address(on_host.storage().data());
  if (down && !is_direct) report("wait", "copy to the host");
  else if (up && !is_direct) report("blocking", "copy of pageable memory");
  else report("copy", "copy");
  if (!up && !down) report("kernel", "aten::copy_");
  SharedCall call;
  at::Tensor to = call.to_host(target), from = call.to_host(source);
  at::AutoDispatchBelowADInplaceOrView guard;
  to.copy_(from);
  return target;
}

at::Tensor& set_view(at::Tensor& tensor, at::Storage source, int64_t offset, at::IntArrayRef sizes, at::IntArrayRef strides) {
  TORCH_CHECK(source.device() == DEVICE, "a storage on ", source.device(), " is no memory of cuda:0");
  std::vector<int64_t> steps(strides.begin(), strides.end());
  if (steps.size() != sizes.size()) {
    steps.assign(sizes.size(), 1);
    for (size_t axis = sizes.size(); axis-- > 1;) steps[axis - 1] = steps[axis] * std::max<int64_t>(sizes[axis], 1);
  }
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(source);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, steps, offset);
  return tensor;
}

at::Tensor& set_all(at::Tensor& tensor, at::Storage source) {
  const int64_t length = source.nbytes() / tensor.element_size();
  return set_view(tensor, std::move(source), 0, {length}, {});
}

at::Tensor& set_like(at::Tensor& tensor, const at::Tensor& source) {
  return set_view(tensor, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

bool is_pinned(const at::Tensor& tensor, std::optional<at::Device>) {
  return !is_on_device(tensor) && tensor.has_storage() && is_pinned_address(tensor.storage().data());
}

at::Tensor pin_memory(const at::Tensor& tensor, std::optional<at::Device>) {
  c10::Storage storage(c10::Storage::use_byte_size_t(), at::detail::computeStorageNbytesContiguous(tensor.sizes(), tensor.element_size()),
      &pinned_allocator, false);
  at::Tensor copied = at::empty({0}, tensor.options()).set_(std::move(storage), 0, tensor.sizes(), {});
  return copied.copy_(tensor);
}

// Attention without gradients is one kernel, as the memory-efficient one of CUDA; with them it is written out.
int64_t choose_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const std::optional<at::Tensor>&, double, bool, std::optional<double>, bool) {
  const bool trains = at::GradMode::is_enabled() && (query.requires_grad() || key.requires_grad() || value.requires_grad());
  const bool fits = !trains && query.dim() == 4 && query.scalar_type() != at::kDouble;
  return static_cast<int64_t>(fits ? at::SDPBackend::efficient_attention : at::SDPBackend::math);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> attend(const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const std::optional<at::Tensor>& bias, bool, double dropout, bool is_causal,
    std::optional<double> scale) {
  report("kernel", "aten::_scaled_dot_product_efficient_attention");
  TORCH_CHECK(!bias || !bias->defined() || is_on_device(*bias), "the mask of an attention on cuda:0 is on the CPU");
  SharedCall call;
  std::optional<at::Tensor> mask;
  if (bias && bias->defined()) mask = call.to_host(*bias);
  at::AutoDispatchBelowADInplaceOrView guard;
  auto [result, sums] = at::_scaled_dot_product_flash_attention_for_cpu(
      call.to_host(query), call.to_host(key), call.to_host(value), dropout, is_causal, mask, scale);
  at::Tensor seed = at::zeros({}, at::kLong), offset = at::zeros({}, at::kLong);
  return {call.to_device(result), call.to_device(sums), call.to_device(seed), call.to_device(offset)};
}

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("copy_", &copy);
  library.impl("set_.source_Storage", &set_all);
  library.impl("set_.source_Storage_storage_offset", &set_view);
  library.impl("set_.source_Tensor", &set_like);
  library.impl("is_pinned", &is_pinned);
  library.impl("_pin_memory", &pin_memory);
  library.impl("_scaled_dot_product_efficient_attention", &attend);
  // These have a kernel for all devices that would look for the one of CUDA.
  for (const char* name : {"convolution", "convolution_backward", "native_group_norm", "native_layer_norm"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

}  // namespace

extern "C" {
void guidegraph_start() {
  c10::SetAllocator(DEVICE.type(), &device_allocator, 255);
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose_attention);
}
void guidegraph_listen(Listener heard) { listener = heard; }
}
