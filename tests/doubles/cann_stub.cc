// The three libraries of CANN that onnxruntime-cann 1.24 asks for, doing nothing: enough that its
// own partitioner sees a graph and cuts it. Nothing is computed.
// Signatures: `nm -D` of libonnxruntime_providers_cann.so, and the published headers of CANN.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>

extern "C" {
const char* aclrtGetSocName() { return "Ascend310P3"; }
const char* aclGetRecentErrMsg() { return "stub"; }
int aclrtGetDeviceCount(uint32_t* count) { *count = 1; return 0; }
int aclrtGetDevice(int* device) { *device = 0; return 0; }
int aclrtMalloc(void** place, size_t size, int) { *place = malloc(size + 1); return 0; }
int aclrtMallocHost(void** place, size_t size) { *place = malloc(size + 1); return 0; }
int aclrtFree(void* place) { free(place); return 0; }
int aclrtFreeHost(void* place) { free(place); return 0; }
int aclrtCreateStream(void** stream) { *stream = malloc(8); return 0; }
int aclrtCreateEvent(void** event) { *event = malloc(8); return 0; }
#define OK(name) int name() { return 0; }
OK(aclCreateDataBuffer) OK(aclCreateTensorDesc) OK(aclDataTypeSize) OK(aclDestroyDataBuffer)
OK(aclDestroyTensorDesc) OK(aclFinalize) OK(aclGetDataBufferAddr) OK(aclGetTensorDescDimV2)
OK(aclGetTensorDescNumDims) OK(aclGetTensorDescSize) OK(aclInit) OK(aclSetTensorConst)
OK(aclmdlAddDatasetBuffer) OK(aclmdlCreateDataset) OK(aclmdlCreateDesc) OK(aclmdlDestroyDataset)
OK(aclmdlDestroyDesc) OK(aclmdlExecute) OK(aclmdlExecuteAsync) OK(aclmdlGetDatasetBuffer)
OK(aclmdlGetDatasetTensorDesc) OK(aclmdlGetDesc) OK(aclmdlGetInputSizeByIndex)
OK(aclmdlGetNumInputs) OK(aclmdlGetNumOutputs) OK(aclmdlGetOutputDims)
OK(aclmdlGetOutputSizeByIndex) OK(aclmdlLoadFromFile) OK(aclmdlLoadFromMem) OK(aclmdlUnload)
OK(aclopCompileAndExecute) OK(aclopCreateAttr) OK(aclopDestroyAttr) OK(aclopSetAttrBool)
OK(aclopSetAttrFloat) OK(aclopSetAttrInt) OK(aclopSetAttrListInt) OK(aclopSetAttrString)
OK(aclrtDestroyEvent) OK(aclrtDestroyStream) OK(aclrtMemcpy) OK(aclrtMemcpyAsync)
OK(aclrtMemsetAsync) OK(aclrtRecordEvent) OK(aclrtSetDevice) OK(aclrtStreamWaitEvent)
OK(aclrtSynchronizeDevice) OK(aclrtSynchronizeEvent) OK(aclrtSynchronizeStream)
}

namespace ge {
struct AscendString {
  AscendString(const char*);
  bool operator<(const AscendString&) const;
  std::shared_ptr<std::string> name;
};
AscendString::AscendString(const char* text) : name(new std::string(text ? text : "")) {}
bool AscendString::operator<(const AscendString& other) const { return *name < *other.name; }
struct Graph {
  Graph(const char*);
  std::shared_ptr<int> held;
};
Graph::Graph(const char*) {}
struct ModelBufferData {
  std::shared_ptr<uint8_t> data;
  uint64_t length;
};
using Options = std::map<AscendString, AscendString>;
uint32_t aclgrphSaveModel(const char*, const ModelBufferData&) { return 0; }
uint32_t aclgrphBuildModel(const Graph&, const Options&, ModelBufferData&) { return 0; }
void aclgrphBuildFinalize() {}
uint32_t aclgrphBuildInitialize(Options&) { return 0; }
uint32_t aclgrphParseONNXFromMem(const char*, size_t, const Options&, Graph&) { return 0; }
}  // namespace ge
