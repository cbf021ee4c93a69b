// The public HIP 7 and NCCL signatures that the test program uses, bound with dlopen.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int hipError_t;
typedef struct ihipStream *hipStream_t;
typedef struct ihipEvent *hipEvent_t;
typedef struct ihipModule *hipModule_t;
typedef struct ihipFunction *hipFunction_t;
typedef struct ihipGraph *hipGraph_t;
typedef struct hipGraphExec *hipGraphExec_t;
typedef struct hipGraphNode *hipGraphNode_t;
typedef struct { unsigned x, y, z; } dim3;
typedef struct {
  dim3 blockDim;
  void **extra;
  void *func;
  dim3 gridDim;
  void **kernelParams;
  unsigned sharedMemBytes;
} hipKernelNodeParams;
typedef struct {
  void *dst;
  size_t pitch;
  unsigned value, elementSize;
  size_t width, height;
} hipMemsetParams;
typedef struct { void (*fn)(void *); void *userData; } hipHostNodeParams;
typedef struct {
  int id;
  char pad[4];
  union { char pad[64]; int cooperative; } val;
} hipLaunchAttribute;
typedef struct {
  unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
  hipStream_t hStream;
  hipLaunchAttribute *attrs;
  unsigned numAttrs;
} HIP_LAUNCH_CONFIG;
typedef struct {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  hipStream_t stream;
  hipLaunchAttribute *attrs;
  unsigned numAttrs;
} hipLaunchConfig_t;
typedef struct ncclComm *ncclComm_t;
typedef struct { char internal[128]; } ncclUniqueId;

#define FN(lib, ret, name, args) static ret(*name) args;
#define HIP_FUNCTIONS(F)                                                                       \
  F(hip, hipError_t, hipInit, (unsigned))                                                      \
  F(hip, hipError_t, hipGetDeviceCount, (int *))                                               \
  F(hip, hipError_t, hipSetDevice, (int))                                                      \
  F(hip, hipError_t, hipDeviceSynchronize, (void))                                             \
  F(hip, const char *, hipGetErrorString, (hipError_t))                                        \
  F(hip, hipError_t, hipGetLastError, (void))                                                  \
  F(hip, hipError_t, hipMalloc, (void **, size_t))                                             \
  F(hip, hipError_t, hipFree, (void *))                                                        \
  F(hip, hipError_t, hipHostMalloc, (void **, size_t, unsigned))                               \
  F(hip, hipError_t, hipHostFree, (void *))                                                    \
  F(hip, hipError_t, hipMemcpy, (void *, const void *, size_t, int))                           \
  F(hip, hipError_t, hipMemcpyAsync, (void *, const void *, size_t, int, hipStream_t))         \
  F(hip, hipError_t, hipMemset, (void *, int, size_t))                                         \
  F(hip, hipError_t, hipMemsetAsync, (void *, int, size_t, hipStream_t))                       \
  F(hip, hipError_t, hipStreamCreateWithFlags, (hipStream_t *, unsigned))                      \
  F(hip, hipError_t, hipStreamDestroy, (hipStream_t))                                          \
  F(hip, hipError_t, hipStreamSynchronize, (hipStream_t))                                      \
  F(hip, hipError_t, hipStreamWaitEvent, (hipStream_t, hipEvent_t, unsigned))                  \
  F(hip, hipError_t, hipEventCreateWithFlags, (hipEvent_t *, unsigned))                        \
  F(hip, hipError_t, hipEventRecord, (hipEvent_t, hipStream_t))                                \
  F(hip, hipError_t, hipEventQuery, (hipEvent_t))                                              \
  F(hip, hipError_t, hipEventDestroy, (hipEvent_t))                                            \
  F(hip, hipError_t, hipModuleLoad, (hipModule_t *, const char *))                             \
  F(hip, hipError_t, hipModuleLoadData, (hipModule_t *, const void *))                         \
  F(hip, hipError_t, hipModuleUnload, (hipModule_t))                                           \
  F(hip, hipError_t, hipModuleGetFunction, (hipFunction_t *, hipModule_t, const char *))       \
  F(hip, hipError_t, hipFuncGetAttribute, (int *, int, hipFunction_t))                         \
  F(hip, hipError_t, hipFuncSetAttribute, (const void *, int, int))                            \
  F(hip, hipError_t, hipModuleGetGlobal, (void **, size_t *, hipModule_t, const char *))       \
  F(hip, hipError_t, hipModuleOccupancyMaxActiveBlocksPerMultiprocessor,                       \
    (int *, hipFunction_t, int, size_t))                                                       \
  F(hip, hipError_t, hipGraphExecUpdate,                                                       \
    (hipGraphExec_t, hipGraph_t, hipGraphNode_t *, int *))                                     \
  F(hip, hipError_t, hipModuleLaunchKernel,                                                    \
    (hipFunction_t, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,      \
     hipStream_t, void **, void **))                                                           \
  F(hip, hipError_t, hipStreamBeginCapture, (hipStream_t, int))                                \
  F(hip, hipError_t, hipStreamEndCapture, (hipStream_t, hipGraph_t *))                         \
  F(hip, hipError_t, hipGraphInstantiate,                                                      \
    (hipGraphExec_t *, hipGraph_t, void *, char *, size_t))                                    \
  F(hip, hipError_t, hipGraphLaunch, (hipGraphExec_t, hipStream_t))                            \
  F(hip, hipError_t, hipGraphDestroy, (hipGraph_t))                                            \
  F(hip, hipError_t, hipGraphExecDestroy, (hipGraphExec_t))                                    \
  F(hip, hipError_t, hipStreamAddCallback,                                                     \
    (hipStream_t, void (*)(hipStream_t, hipError_t, void *), void *, unsigned))                \
  F(hip, hipError_t, hipStreamWriteValue32, (hipStream_t, void *, unsigned, unsigned))         \
  F(hip, hipError_t, hipStreamWaitValue32,                                                     \
    (hipStream_t, void *, unsigned, unsigned, unsigned))                                       \
  F(hip, hipError_t, hipStreamWriteValue64,                                                    \
    (hipStream_t, void *, unsigned long long, unsigned))                                       \
  F(hip, hipError_t, hipStreamWaitValue64,                                                     \
    (hipStream_t, void *, unsigned long long, unsigned, unsigned long long))                   \
  F(hip, hipError_t, hipDrvLaunchKernelEx,                                                     \
    (const HIP_LAUNCH_CONFIG *, hipFunction_t, void **, void **))                              \
  F(hip, hipError_t, hipLaunchKernelExC, (const hipLaunchConfig_t *, const void *, void **))   \
  F(hip, hipError_t, hipStreamGetCaptureInfo_v2,                                               \
    (hipStream_t, int *, unsigned long long *, hipGraph_t *, const hipGraphNode_t **,          \
     size_t *))                                                                                \
  F(hip, hipError_t, hipStreamUpdateCaptureDependencies,                                       \
    (hipStream_t, hipGraphNode_t *, size_t, unsigned))                                         \
  F(hip, hipError_t, hipGraphCreate, (hipGraph_t *, unsigned))                                 \
  F(hip, hipError_t, hipGraphAddKernelNode,                                                    \
    (hipGraphNode_t *, hipGraph_t, const hipGraphNode_t *, size_t,                             \
     const hipKernelNodeParams *))                                                             \
  F(hip, hipError_t, hipGraphAddMemcpyNode1D,                                                  \
    (hipGraphNode_t *, hipGraph_t, const hipGraphNode_t *, size_t, void *, const void *,       \
     size_t, int))                                                                             \
  F(hip, hipError_t, hipGraphAddMemsetNode,                                                    \
    (hipGraphNode_t *, hipGraph_t, const hipGraphNode_t *, size_t, const hipMemsetParams *))   \
  F(hip, hipError_t, hipGraphAddHostNode,                                                      \
    (hipGraphNode_t *, hipGraph_t, const hipGraphNode_t *, size_t, const hipHostNodeParams *)) \
  F(hip, hipError_t, hipGraphAddEmptyNode,                                                     \
    (hipGraphNode_t *, hipGraph_t, const hipGraphNode_t *, size_t))                            \
  F(hip, hipError_t, hipGraphAddDependencies,                                                  \
    (hipGraph_t, const hipGraphNode_t *, const hipGraphNode_t *, size_t))                      \
  F(hip, hipError_t, hipGraphKernelNodeGetParams, (hipGraphNode_t, hipKernelNodeParams *))     \
  F(hip, hipError_t, hipGraphExecKernelNodeSetParams,                                          \
    (hipGraphExec_t, hipGraphNode_t, const hipKernelNodeParams *))                             \
  F(hip, hipError_t, hipGraphDebugDotPrint, (hipGraph_t, const char *, unsigned))              \
  F(rccl, int, ncclGetUniqueId, (ncclUniqueId *))                                              \
  F(rccl, int, ncclCommInitRank, (ncclComm_t *, int, ncclUniqueId, int))                       \
  F(rccl, int, ncclCommInitAll, (ncclComm_t *, int, const int *))                              \
  F(rccl, int, ncclAllReduce,                                                                  \
    (const void *, void *, size_t, int, int, ncclComm_t, hipStream_t))                         \
  F(rccl, int, ncclGroupStart, (void))                                                         \
  F(rccl, int, ncclGroupEnd, (void))                                                           \
  F(rccl, int, ncclCommGetAsyncError, (ncclComm_t, int *))                                     \
  F(rccl, int, ncclCommDestroy, (ncclComm_t))
HIP_FUNCTIONS(FN)

#define LOAD(lib, ret, name, args)                                                             \
  if (!(*(void **)&name = dlsym(lib, #name))) { fprintf(stderr, "no %s\n", #name); exit(2); }
#define OK(call)                                                                               \
  do {                                                                                         \
    int e_ = (call);                                                                           \
    if (e_) { fprintf(stderr, "line %d: %s = %d\n", __LINE__, #call, e_); exit(1); }           \
  } while (0)
#define IS(want, call)                                                                         \
  do {                                                                                         \
    int e_ = (call);                                                                           \
    if (e_ != (want)) {                                                                        \
      fprintf(stderr, "line %d: %s = %d, want %d\n", __LINE__, #call, e_, want);               \
      exit(1);                                                                                 \
    }                                                                                          \
  } while (0)
#define CHECK(cond)                                                                            \
  do {                                                                                         \
    if (!(cond)) { fprintf(stderr, "line %d: %s is false\n", __LINE__, #cond); exit(1); }      \
  } while (0)
