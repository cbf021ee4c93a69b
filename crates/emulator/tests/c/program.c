// A small program against the public HIP 7 and NCCL signatures.
#include "api.h"

enum { N = 1000, BYTES = 4 * N };
static hipModule_t module;
static hipFunction_t vadd;

static void add(void *a, void *b, void *c, hipStream_t s) {
  int n = N;
  void *args[] = {&a, &b, &c, &n};
  OK(hipModuleLaunchKernel(vadd, 4, 1, 1, 256, 1, 1, 0, s, args, NULL));
}

static void vector_add(void) {
  float a[N], b[N], c[N];
  for (int i = 0; i < N; ++i) a[i] = i, b[i] = 2 * i;
  void *da, *db, *dc;
  OK(hipMalloc(&da, BYTES)); OK(hipMalloc(&db, BYTES)); OK(hipMalloc(&dc, BYTES));
  OK(hipMemcpy(da, a, BYTES, 1)); OK(hipMemcpy(db, b, BYTES, 1));
  add(da, db, dc, NULL);
  OK(hipMemcpy(c, dc, BYTES, 2));
  for (int i = 0; i < N; ++i) CHECK(c[i] == 3.0f * i);
  // Arguments packed through `extra`.
  struct { void *a, *b, *c; int n; } packed = {da, da, dc, N};
  size_t size = sizeof packed;
  void *extra[] = {(void *)1, &packed, (void *)2, &size, (void *)3};
  OK(hipModuleLaunchKernel(vadd, 4, 1, 1, 256, 1, 1, 0, NULL, NULL, extra));
  OK(hipMemcpy(c, dc, BYTES, 2));
  for (int i = 0; i < N; ++i) CHECK(c[i] == 2.0f * i);
  OK(hipFree(da)); OK(hipFree(db)); OK(hipFree(dc));
  puts("vector add");
}

static void pipeline(void) {
  hipStream_t s, t;
  hipEvent_t e;
  float *host;
  void *x, *y;
  OK(hipStreamCreateWithFlags(&s, 1)); OK(hipStreamCreateWithFlags(&t, 1));
  OK(hipEventCreateWithFlags(&e, 2));
  OK(hipHostMalloc((void **)&host, BYTES, 0));
  OK(hipMalloc(&x, BYTES)); OK(hipMalloc(&y, BYTES));
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < N; ++i) host[i] = i + round;
    OK(hipMemcpyAsync(x, host, BYTES, 1, s));
    add(x, x, x, s);
    OK(hipEventRecord(e, s));
    OK(hipStreamWaitEvent(t, e, 0));
    add(x, x, y, t);
    OK(hipMemcpyAsync(host, y, BYTES, 2, t));
    OK(hipStreamSynchronize(t));
    for (int i = 0; i < N; ++i) CHECK(host[i] == 4.0f * (i + round));
  }
  OK(hipEventQuery(e));
  OK(hipEventDestroy(e)); OK(hipStreamDestroy(s)); OK(hipStreamDestroy(t));
  OK(hipFree(x)); OK(hipFree(y)); OK(hipHostFree(host));
  puts("pipeline");
}

static void graph(void) {
  hipStream_t s, t;
  hipEvent_t fork, join;
  hipGraph_t g;
  hipGraphExec_t exec;
  float out[N];
  void *x, *y, *one;
  OK(hipStreamCreateWithFlags(&s, 1)); OK(hipStreamCreateWithFlags(&t, 1));
  OK(hipEventCreateWithFlags(&fork, 2)); OK(hipEventCreateWithFlags(&join, 2));
  OK(hipMalloc(&x, BYTES)); OK(hipMalloc(&y, BYTES)); OK(hipMalloc(&one, BYTES));
  for (int i = 0; i < N; ++i) out[i] = 1;
  OK(hipMemcpy(one, out, BYTES, 1));
  OK(hipMemsetAsync(x, 0, BYTES, s)); OK(hipMemsetAsync(y, 0, BYTES, s));
  OK(hipStreamSynchronize(s));
  OK(hipStreamBeginCapture(s, 1));
  add(x, one, x, s);
  OK(hipEventRecord(fork, s));
  OK(hipStreamWaitEvent(t, fork, 0));
  add(x, y, y, t);
  OK(hipEventRecord(join, t));
  OK(hipStreamWaitEvent(s, join, 0));
  IS(907, hipEventQuery(join));
  OK(hipStreamEndCapture(s, &g));
  OK(hipGraphInstantiate(&exec, g, NULL, NULL, 0));
  for (int i = 0; i < 100; ++i) OK(hipGraphLaunch(exec, s));
  OK(hipStreamSynchronize(s));
  OK(hipMemcpy(out, x, BYTES, 2));
  for (int i = 0; i < N; ++i) CHECK(out[i] == 100.0f);
  OK(hipMemcpy(out, y, BYTES, 2));
  for (int i = 0; i < N; ++i) CHECK(out[i] == 5050.0f);
  hipGraph_t spoilt;
  OK(hipStreamBeginCapture(t, 1)); OK(hipGraphLaunch(exec, s));
  IS(901, hipStreamEndCapture(t, &spoilt));
  OK(hipGraphExecDestroy(exec)); OK(hipGraphDestroy(g)); IS(400, hipGraphDestroy(g));

  // Wrong use while capturing.
  void *p;
  OK(hipStreamBeginCapture(s, 0)); IS(900, hipMalloc(&p, 16));
  IS(901, hipStreamEndCapture(s, &g));
  OK(hipStreamBeginCapture(s, 2)); IS(906, hipMemset(x, 0, 4));
  IS(901, hipStreamEndCapture(s, &g));
  OK(hipStreamBeginCapture(s, 1)); IS(900, hipStreamSynchronize(s));
  IS(901, hipStreamEndCapture(s, &g));
  OK(hipStreamBeginCapture(s, 1));
  add(x, one, x, s);
  OK(hipEventRecord(fork, s));
  OK(hipStreamWaitEvent(t, fork, 0));
  add(x, y, y, t);
  IS(904, hipStreamEndCapture(s, &g));
  OK(hipEventRecord(join, t));
  OK(hipStreamBeginCapture(s, 1)); IS(905, hipStreamWaitEvent(s, join, 0));
  IS(901, hipStreamEndCapture(s, &g));
  hipStream_t blocking;
  OK(hipStreamCreateWithFlags(&blocking, 0)); OK(hipStreamBeginCapture(blocking, 2));
  IS(906, hipMemsetAsync(x, 0, 4, NULL));
  IS(901, hipStreamEndCapture(blocking, &g));
  puts("graph");
}

static void bump(void *counter) { ++*(volatile int *)counter; }

static void notice(hipStream_t s, hipError_t status, void *data) {
  (void)s;
  *(volatile int *)data += status ? 100 : 1;
}

// Streams ordered by words in memory, callbacks, and the extended launch calls.
static void values(void) {
  hipStream_t s, t;
  unsigned *flag;
  float out[N], *x, *y;
  volatile int calls = 0;
  OK(hipStreamCreateWithFlags(&s, 1)); OK(hipStreamCreateWithFlags(&t, 1));
  OK(hipHostMalloc((void **)&flag, 64, 0));
  OK(hipMalloc((void **)&x, BYTES)); OK(hipMalloc((void **)&y, BYTES));
  memset(flag, 0, 64);
  for (int i = 0; i < N; ++i) out[i] = i;
  for (unsigned round = 1; round <= 10; ++round) {
    OK(hipStreamWaitValue32(t, flag, round, 0, ~0u));
    add(x, x, y, t);
    OK(hipStreamWriteValue64(t, flag + 2, round, 0));
    OK(hipMemcpyAsync(x, out, BYTES, 1, s));
    OK(hipStreamWriteValue32(s, flag, round, 0));
    OK(hipStreamWaitValue64(s, flag + 2, round, 1, ~0ull));
    OK(hipMemsetAsync(x, 0, BYTES, s));
    OK(hipStreamAddCallback(s, notice, (void *)&calls, 0));
  }
  OK(hipStreamSynchronize(s)); OK(hipStreamSynchronize(t));
  CHECK(calls == 10);
  OK(hipMemcpy(out, y, BYTES, 2));
  for (int i = 0; i < N; ++i) CHECK(out[i] == 2.0f * i);
  // A wait that the host ends.
  flag[0] = 0;
  OK(hipStreamWaitValue32(s, flag, 4, 2, ~0u));
  OK(hipStreamAddCallback(s, notice, (void *)&calls, 0));
  CHECK(calls == 10);
  *(volatile unsigned *)flag = 6;
  OK(hipStreamSynchronize(s));
  CHECK(calls == 11);
  IS(1, hipStreamWaitValue32(s, (char *)flag + 2, 0, 0, ~0u));
  IS(1, hipStreamWaitValue32(s, flag, 0, 9, ~0u));
  int n = N;
  void *args[] = {&y, &y, &y, &n};
  hipLaunchAttribute a = {.id = 2, .val.cooperative = 1};
  HIP_LAUNCH_CONFIG c = {4, 1, 1, 256, 1, 1, 0, s, &a, 1};
  OK(hipDrvLaunchKernelEx(&c, vadd, args, NULL));
  hipLaunchConfig_t d = {{4, 1, 1}, {256, 1, 1}, 0, s, NULL, 0};
  OK(hipLaunchKernelExC(&d, vadd, args));
  IS(98, hipLaunchKernelExC(&d, (void *)notice, args));
  OK(hipStreamSynchronize(s));
  OK(hipMemcpy(out, y, BYTES, 2));
  for (int i = 0; i < N; ++i) CHECK(out[i] == 8.0f * i);
  OK(hipFree(x)); OK(hipFree(y)); OK(hipHostFree(flag));
  puts("values");
}

// A graph built node by node, and one whose capture is steered.
static void built_graph(const char *dot) {
  hipStream_t s;
  hipGraph_t g, seen;
  hipGraphExec_t exec;
  hipGraphNode_t set, copy, sum, host, all, node;
  float *x, *y, *pinned;
  int calls = 0, n = N, status;
  OK(hipStreamCreateWithFlags(&s, 1));
  OK(hipMalloc((void **)&x, BYTES)); OK(hipMalloc((void **)&y, BYTES));
  OK(hipHostMalloc((void **)&pinned, BYTES, 0));
  OK(hipGraphCreate(&g, 0));
  // The sum is added first and comes after the others by dependencies given later.
  void *args[] = {&x, &y, &y, &n};
  hipKernelNodeParams k = {{256, 1, 1}, NULL, vadd, {4, 1, 1}, args, 0}, got;
  OK(hipGraphAddKernelNode(&sum, g, NULL, 0, &k));
  hipMemsetParams m = {x, 0, 0x3f800000, 4, N, 1};
  OK(hipGraphAddMemsetNode(&set, g, NULL, 0, &m));
  m.dst = y;
  OK(hipGraphAddMemsetNode(&node, g, NULL, 0, &m));
  hipHostNodeParams h = {bump, &calls};
  OK(hipGraphAddHostNode(&host, g, NULL, 0, &h));
  OK(hipGraphAddEmptyNode(&all, g, (hipGraphNode_t[]){set, node, host}, 3));
  OK(hipGraphAddMemcpyNode1D(&copy, g, &sum, 1, pinned, y, BYTES, 2));
  OK(hipGraphAddDependencies(g, &all, &sum, 1));
  IS(1, hipGraphAddDependencies(g, &all, &sum, 1));
  OK(hipGraphKernelNodeGetParams(sum, &got));
  CHECK(got.func == (void *)vadd && got.gridDim.x == 4 && got.blockDim.x == 256);
  CHECK(*(float **)got.kernelParams[0] == x && *(int *)got.kernelParams[3] == N);
  OK(hipGraphInstantiate(&exec, g, NULL, NULL, 0));
  for (int i = 0; i < 3; ++i) OK(hipGraphLaunch(exec, s));
  OK(hipStreamSynchronize(s));
  CHECK(calls == 3);
  for (int i = 0; i < N; ++i) CHECK(pinned[i] == 2.0f);
  // What was read back may be given back, with an argument changed.
  *(float **)got.kernelParams[0] = y;
  got.kernelParams[1] = &x;
  OK(hipGraphExecKernelNodeSetParams(exec, sum, &got));
  OK(hipGraphLaunch(exec, s));
  OK(hipStreamSynchronize(s));
  for (int i = 0; i < N; ++i) CHECK(pinned[i] == 2.0f);
  OK(hipGraphDebugDotPrint(g, dot, 0));
  OK(hipGraphAddDependencies(g, &copy, &host, 1));
  IS(1, hipGraphInstantiate(&exec, g, NULL, NULL, 0));  // A cycle.
  OK(hipGraphDestroy(g));
  IS(400, hipGraphKernelNodeGetParams(sum, &got));

  const hipGraphNode_t *after;
  size_t count;
  unsigned long long id;
  OK(hipStreamBeginCapture(s, 1));
  add(x, x, y, s);
  OK(hipStreamGetCaptureInfo_v2(s, &status, &id, &seen, &after, &count));
  CHECK(status == 1 && count == 1);
  OK(hipGraphAddEmptyNode(&node, seen, after, count));
  OK(hipStreamUpdateCaptureDependencies(s, &node, 1, 1));
  add(y, y, y, s);
  OK(hipStreamGetCaptureInfo_v2(s, &status, NULL, NULL, &after, &count));
  CHECK(count == 1 && after[0] != node);
  OK(hipStreamEndCapture(s, &g));
  CHECK(g == seen);
  OK(hipStreamGetCaptureInfo_v2(s, &status, NULL, NULL, NULL, NULL));
  CHECK(status == 0);
  OK(hipGraphInstantiate(&exec, g, NULL, NULL, 0));
  OK(hipGraphLaunch(exec, s));
  OK(hipStreamSynchronize(s));
  OK(hipMemcpy(pinned, y, BYTES, 2));
  CHECK(pinned[N - 1] == 4.0f);
  OK(hipGraphDestroy(g));
  OK(hipFree(x)); OK(hipFree(y)); OK(hipHostFree(pinned));
  puts("built graph");
}

static ncclUniqueId id;
static float sums[4][N];

static void *rank_main(void *arg) {
  int rank = (int)(size_t)arg;
  ncclComm_t comm;
  hipStream_t s;
  void *x;
  float in[N];
  OK(hipSetDevice(rank));
  OK(ncclCommInitRank(&comm, 4, id, rank));
  OK(hipStreamCreateWithFlags(&s, 1));
  OK(hipMalloc(&x, BYTES));
  for (int i = 0; i < N; ++i) in[i] = (rank + 1) * i;
  OK(hipMemcpyAsync(x, in, BYTES, 1, s));
  OK(ncclAllReduce(x, x, N, 7, 0, comm, s));
  OK(hipMemcpyAsync(sums[rank], x, BYTES, 2, s));
  OK(hipStreamSynchronize(s));
  int async;
  OK(ncclCommGetAsyncError(comm, &async));
  CHECK(async == 0);
  OK(ncclCommDestroy(comm));
  return NULL;
}

static void all_reduce(void) {
  pthread_t t[4];
  OK(ncclGetUniqueId(&id));
  for (size_t r = 0; r < 4; ++r) pthread_create(&t[r], NULL, rank_main, (void *)r);
  for (int r = 0; r < 4; ++r) pthread_join(t[r], NULL);
  for (int r = 0; r < 4; ++r)
    for (int i = 0; i < N; ++i) CHECK(sums[r][i] == 10.0f * i);
  // One thread, communicators of two devices, and a group.
  ncclComm_t comms[2];
  void *x[2];
  float v[2] = {1, 2}, out;
  OK(ncclCommInitAll(comms, 2, NULL));
  for (int d = 0; d < 2; ++d) {
    OK(hipSetDevice(d)); OK(hipMalloc(&x[d], 4)); OK(hipMemcpy(x[d], &v[d], 4, 1));
  }
  IS(400, hipStreamSynchronize((hipStream_t)v)); // an error that the next call takes for its own
  IS(1, ncclAllReduce(x[0], x[0], 1, 7, 0, comms[0], NULL));
  OK(ncclGroupStart());
  for (int d = 0; d < 2; ++d) OK(ncclAllReduce(x[d], x[d], 1, 7, 0, comms[d], NULL));
  OK(ncclGroupEnd());
  for (int d = 0; d < 2; ++d) {
    OK(hipSetDevice(d));
    OK(hipDeviceSynchronize());
    OK(hipMemcpy(&out, x[d], 4, 2));
    CHECK(out == 3);
  }
  OK(hipSetDevice(0));
  puts("all-reduce");
}

// What a function and a module tell of themselves, and a graph that is given other arguments.
static void attributes(void) {
  int value, table[4], three[4] = {3, 3, 3, 3};
  size_t size;
  void *p, *x, *y;
  hipFunction_t total;
  OK(hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(&value, vadd, 256, 0));
  CHECK(value == 8);  // Eight waves on each of four units.
  OK(hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(&value, vadd, 256, 65536));
  CHECK(value == 2);  // Of 160 KiB.
  IS(1, hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(&value, vadd, 0, 0));
  OK(hipFuncSetAttribute(vadd, 8, 100000)); OK(hipFuncGetAttribute(&value, 8, vadd));
  CHECK(value == 100000);
  IS(1, hipFuncSetAttribute(vadd, 8, 200000));
  OK(hipModuleGetGlobal(&p, &size, module, "table"));
  CHECK(size == sizeof table); OK(hipMemcpy(table, p, size, 2));
  for (int i = 0; i < 4; ++i) CHECK(table[i] == i + 1);
  OK(hipMemcpy(p, three, size, 1));
  OK(hipModuleGetFunction(&total, module, "total"));
  OK(hipMalloc(&x, BYTES)); OK(hipMalloc(&y, BYTES));
  OK(hipModuleLaunchKernel(total, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){&x}, NULL));
  OK(hipMemcpy(&value, x, 4, 2)); CHECK(value == 12);
  IS(500, hipModuleGetGlobal(&p, &size, module, "absent"));

  hipStream_t s;
  hipGraph_t g[3];
  hipGraphExec_t exec;
  float out[N];
  for (int i = 0; i < N; ++i) out[i] = 1;
  OK(hipMemcpy(x, out, BYTES, 1)); OK(hipMemcpy(y, out, BYTES, 1));
  OK(hipStreamCreateWithFlags(&s, 1));
  for (int k = 0; k < 3; ++k) {
    OK(hipStreamBeginCapture(s, 1));
    for (int i = 0; i < 1 + k / 2; ++i) add(k ? y : x, x, k ? y : x, s);
    OK(hipStreamEndCapture(s, &g[k]));
  }
  OK(hipGraphInstantiate(&exec, g[0], NULL, NULL, 0));
  OK(hipGraphExecUpdate(exec, g[1], NULL, &value));
  CHECK(value == 0);
  IS(910, hipGraphExecUpdate(exec, g[2], NULL, &value)); CHECK(value == 2);  // Another shape.
  for (int i = 0; i < 5; ++i) OK(hipGraphLaunch(exec, s));
  OK(hipMemcpyAsync(out, y, BYTES, 2, s)); OK(hipStreamSynchronize(s));
  for (int i = 0; i < N; ++i) CHECK(out[i] == 6.0f);
  puts("attributes");
}

static void wrong_use(const char *path) {
  void *p, *q;
  char byte;
  OK(hipMalloc(&p, 64));
  IS(1, hipMemcpy(p, &byte, 65, 1) ? 1 : 0);
  IS(1, hipFree((char *)p + 4));
  OK(hipFree(p));
  IS(1, hipFree(p));
  IS(1, hipMemcpy(NULL, &byte, 1, 1));
  IS(1, hipMemcpy((void *)16, (void *)32, 1, 4));
  IS(2, hipMalloc(&q, (size_t)300 << 30));
  IS(101, hipSetDevice(99));
  hipStream_t s;
  OK(hipStreamCreateWithFlags(&s, 0));
  OK(hipStreamDestroy(s));
  IS(400, hipStreamDestroy(s));
  IS(400, hipStreamSynchronize(s));
  IS(400, hipStreamSynchronize((hipStream_t)&byte));
  hipModule_t m;
  hipFunction_t f;
  IS(301, hipModuleLoad(&m, "/nonexistent"));
  char junk[256] = "junk";
  IS(200, hipModuleLoadData(&m, junk));
  IS(500, hipModuleGetFunction(&f, module, "absent"));
  IS(9, hipModuleLaunchKernel(vadd, 0, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL));
  IS(1, hipModuleLaunchKernel(vadd, 1, 1, 1, 2048, 1, 1, 0, NULL, NULL, NULL));
  IS(1, hipModuleLaunchKernel(vadd, 1, 1, 1, 64, 1, 1, 200000, NULL, NULL, NULL));
  // The same object for another GPU, and cut short.
  FILE *file = fopen(path, "rb");
  static char image[1 << 20];
  size_t size = fread(image, 1, sizeof image, file);
  fclose(file);
  CHECK(size > 64);
  image[48] = 0x4c;
  IS(209, hipModuleLoadData(&m, image));
  IS(1, hipGetLastError() == 209);
  puts("wrong use");
}

// Scenarios that end with an error on the device, one process each.

static void missing_event(void) {
  hipStream_t s, t;
  void *x, *y, *z;
  OK(hipStreamCreateWithFlags(&s, 1)); OK(hipStreamCreateWithFlags(&t, 1));
  OK(hipMalloc(&x, BYTES)); OK(hipMalloc(&y, BYTES)); OK(hipMalloc(&z, BYTES));
  OK(hipMemsetAsync(x, 0, BYTES, s)); OK(hipMemsetAsync(z, 0, BYTES, s));
  OK(hipStreamSynchronize(s));
  // One writes x, the other reads it: found whichever comes first.
  add(z, z, x, s);
  add(x, x, y, t);
  hipStreamSynchronize(s);
  IS(719, hipStreamSynchronize(t));
  void *p;
  IS(719, hipMalloc(&p, 16));
}

// Two streams read x; a third may write it once it has waited for both.
static void readers(int both) {
  hipStream_t s[3];
  hipEvent_t e[2];
  void *x, *y[3];
  OK(hipMalloc(&x, BYTES));
  OK(hipMemsetAsync(x, 0, BYTES, NULL));
  for (int i = 0; i < 3; ++i) {
    OK(hipStreamCreateWithFlags(&s[i], 1));
    OK(hipMalloc(&y[i], BYTES));
    OK(hipMemsetAsync(y[i], 0, BYTES, NULL));
  }
  OK(hipDeviceSynchronize());
  for (int i = 0; i < 2; ++i) {
    OK(hipEventCreateWithFlags(&e[i], 2));
    add(x, x, y[i], s[i]);
    OK(hipEventRecord(e[i], s[i]));
    if (i == 1 || both) OK(hipStreamWaitEvent(s[2], e[i], 0));
  }
  add(y[2], y[2], x, s[2]);
  hipStreamSynchronize(s[0]);
  IS(both ? 0 : 719, hipStreamSynchronize(s[2]));
}

static void forgotten_reader(void) { readers(0); }
static void all_readers(void) { readers(1); }

// A collective's buffer, and pinned memory, used on another stream.
static void beside_collective(int ordered) {
  ncclComm_t comm;
  hipStream_t s, t;
  hipEvent_t e;
  void *x, *y;
  OK(ncclCommInitAll(&comm, 1, NULL));
  OK(hipStreamCreateWithFlags(&s, 1)); OK(hipStreamCreateWithFlags(&t, 1));
  OK(hipEventCreateWithFlags(&e, 2));
  OK(hipMalloc(&x, BYTES)); OK(hipMalloc(&y, BYTES));
  OK(hipMemsetAsync(x, 0, BYTES, NULL));
  OK(hipDeviceSynchronize());
  OK(ncclAllReduce(x, x, N, 7, 0, comm, s));
  OK(hipEventRecord(e, s));
  if (ordered) OK(hipStreamWaitEvent(t, e, 0));
  add(x, x, y, t);
  hipStreamSynchronize(s);
  IS(ordered ? 0 : 719, hipStreamSynchronize(t));
}

static void unordered_collective(void) { beside_collective(0); }
static void ordered_collective(void) { beside_collective(1); }

static void pinned(int ordered) {
  hipStream_t s, t;
  hipEvent_t e;
  void *x, *host;
  OK(hipStreamCreateWithFlags(&s, 1)); OK(hipStreamCreateWithFlags(&t, 1));
  OK(hipEventCreateWithFlags(&e, 2));
  OK(hipMalloc(&x, BYTES)); OK(hipHostMalloc(&host, BYTES, 0));
  OK(hipMemsetAsync(x, 0, BYTES, NULL));
  OK(hipDeviceSynchronize());
  add(x, x, host, s);
  OK(hipEventRecord(e, s));
  if (ordered) OK(hipStreamWaitEvent(t, e, 0));
  add(host, host, x, t);
  hipStreamSynchronize(s);
  IS(ordered ? 0 : 719, hipStreamSynchronize(t));
}

static void unordered_pinned(void) { pinned(0); }
static void ordered_pinned(void) { pinned(1); }

static void out_of_bounds(void) {
  void *x, *y;
  OK(hipMalloc(&x, BYTES)); OK(hipMalloc(&y, BYTES - 4));
  OK(hipMemsetAsync(x, 0, BYTES, NULL));
  add(x, x, y, NULL);
  IS(700, hipDeviceSynchronize());
  IS(700, hipGetLastError());
}

static void absent_rank(void) {
  ncclComm_t comms[2];
  void *x;
  hipStream_t s;
  int async;
  OK(ncclCommInitAll(comms, 2, NULL));
  OK(hipStreamCreateWithFlags(&s, 1));
  OK(hipMalloc(&x, 64));
  OK(hipMemsetAsync(x, 0, 64, s));
  OK(ncclAllReduce(x, x, 16, 7, 0, comms[0], s));
  hipStreamSynchronize(s);
  OK(ncclCommGetAsyncError(comms[0], &async));
  CHECK(async != 0);
}

static void captured_collective(void) {
  enum { RANKS = 4 };
  ncclComm_t comms[RANKS];
  hipStream_t s[RANKS];
  hipGraph_t g;
  hipGraphExec_t exec[RANKS];
  void *x[RANKS];
  float v[N];
  OK(ncclCommInitAll(comms, RANKS, NULL));
  for (int i = 0; i < N; ++i) v[i] = 1;
  for (int d = 0; d < RANKS; ++d) {
    OK(hipSetDevice(d));
    OK(hipStreamCreateWithFlags(&s[d], 1));
    OK(hipMalloc(&x[d], BYTES));
    OK(hipMemcpy(x[d], v, BYTES, 1));
    OK(hipStreamBeginCapture(s[d], 2));
    OK(ncclAllReduce(x[d], x[d], N, 7, 0, comms[d], s[d]));
    OK(hipStreamEndCapture(s[d], &g));
    OK(hipGraphInstantiate(&exec[d], g, NULL, NULL, 0));
    OK(hipGraphDestroy(g));
  }
  for (int k = 0; k < 5; ++k)
    for (int d = 0; d < RANKS; ++d) OK(hipGraphLaunch(exec[d], s[d]));
  for (int d = 0; d < RANKS; ++d) {
    OK(hipStreamSynchronize(s[d]));
    OK(hipMemcpy(v, x[d], BYTES, 2));
    for (int i = 0; i < N; ++i) CHECK(v[i] == 1024.0f);
  }
}

static void disagreeing_ranks(void) {
  ncclComm_t comms[2];
  void *x[2];
  OK(ncclCommInitAll(comms, 2, NULL));
  for (int d = 0; d < 2; ++d) {
    OK(hipSetDevice(d));
    OK(hipMalloc(&x[d], 64));
    OK(hipMemsetAsync(x[d], 0, 64, NULL));
    OK(ncclAllReduce(x[d], x[d], 8 + d, 7, 0, comms[d], NULL));
  }
  int async;
  hipDeviceSynchronize();
  OK(ncclCommGetAsyncError(comms[0], &async));
  CHECK(async != 0);
}

static void absent_value(void) {
  hipStream_t s;
  void *x;
  OK(hipStreamCreateWithFlags(&s, 1));
  OK(hipMalloc(&x, 64));
  OK(hipMemsetAsync(x, 0, 64, s));
  OK(hipStreamWaitValue32(s, x, 7, 1, ~0u));
  IS(719, hipStreamSynchronize(s));
}

static int scenario(const char *name) {
#define S(name) {#name, name}
  static const struct { const char *name; void (*run)(void); } all[] = {
    S(missing_event), S(out_of_bounds), S(absent_rank), S(captured_collective),
    S(disagreeing_ranks), S(absent_value), S(forgotten_reader), S(all_readers),
    S(unordered_collective), S(ordered_collective), S(unordered_pinned), S(ordered_pinned),
  };
  size_t i = 0, n = sizeof all / sizeof *all;
  while (i < n && strcmp(name, all[i].name)) ++i;
  if (i == n) return 2;
  all[i].run();
  puts("done");
  return 0;
}

int main(int argc, char **argv) {
  CHECK(argc == 3 || argc == 4);
  char name[4096];
  snprintf(name, sizeof name, "%s/libamdhip64.so", argv[1]);
  void *hip = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  snprintf(name, sizeof name, "%s/librccl.so", argv[1]);
  void *rccl = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!hip || !rccl) { fprintf(stderr, "%s\n", dlerror()); return 2; }
  HIP_FUNCTIONS(LOAD)
  int n;
  OK(hipInit(0));
  OK(hipGetDeviceCount(&n));
  CHECK(n == 8);
  OK(hipModuleLoad(&module, argv[2]));
  OK(hipModuleGetFunction(&vadd, module, "vadd"));
  if (argc == 4) return scenario(argv[3]);
  vector_add();
  pipeline();
  graph();
  values();
  snprintf(name, sizeof name, "%s/graph.dot", argv[1]);
  built_graph(name);
  all_reduce();
  attributes();
  wrong_use(argv[2]);
  OK(hipModuleUnload(module));
  puts("done");
  return 0;
}
