/* The checkpoint functions of the CUDA driver, for processes without a GPU.

   gcc -shared -fPIC -o libcuda.so.1 libcuda.c

   Everything is in the folder CUDA_FAKE_DIR: "state-PID" holds the state of each process that
   initialised (0 running, 1 locked, 2 checkpointed, 3 failed); "calls" gets a line for each call with
   the bytes of its arguments; "fail-NAME" holds the code that a function returns, "crash-NAME" has it
   crash, "hang-NAME" has it never return, and "busy" holds how many milliseconds a lock takes. */

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned int timeoutMs; unsigned int reserved0; uint64_t reserved1[7]; } LockArgs;
typedef struct { uint64_t reserved[8]; } CheckpointArgs;
typedef struct {
    void *gpuPairs;
    unsigned int gpuPairsCount;
    char reserved[64 - sizeof(void *) - sizeof(unsigned int) - sizeof(uint64_t)];
    uint64_t reserved1;
} RestoreArgs;
typedef struct { uint64_t reserved[8]; } UnlockArgs;

static void path_of(char *path, const char *name) {
    snprintf(path, 4096, "%s/%s", getenv("CUDA_FAKE_DIR"), name);
}

static long number_in(const char *name, long otherwise) {
    char path[4096];
    long found;
    path_of(path, name);
    FILE *file = fopen(path, "r");
    if (!file) return otherwise;
    if (fscanf(file, "%ld", &found) != 1) found = otherwise;
    fclose(file);
    return found;
}

static long state_of(int pid) {
    char name[64];
    snprintf(name, sizeof name, "state-%d", pid);
    return number_in(name, -1);
}

static void set_state(int pid, int state) {
    char name[64], path[4096], other[4200];
    snprintf(name, sizeof name, "state-%d", pid);
    path_of(path, name);
    snprintf(other, sizeof other, "%s.new", path);
    FILE *file = fopen(other, "w");
    fprintf(file, "%d\n", state);
    fclose(file);
    rename(other, path);
}

static int called(const char *name, int pid, const void *arguments) {
    char path[4096], script[128];
    path_of(path, "calls");
    FILE *file = fopen(path, "a");
    fprintf(file, "%s %d ", name, pid);
    for (int i = 0; arguments && i < 64; i++)
        fprintf(file, "%02x", ((const unsigned char *)arguments)[i]);
    fprintf(file, "\n");
    fclose(file);
    snprintf(script, sizeof script, "crash-%s", name);
    if (number_in(script, 0)) raise(SIGSEGV);
    snprintf(script, sizeof script, "hang-%s", name);
    while (number_in(script, 0)) usleep(1000);
    snprintf(script, sizeof script, "fail-%s", name);
    return (int)number_in(script, 0);
}

int cuInit(unsigned int flags) { return called("init", flags, NULL); }

int cuGetErrorName(int code, const char **name) {
    *name = code == 801 ? "CUDA_ERROR_NOT_SUPPORTED"
            : code == 600 ? "CUDA_ERROR_NOT_READY"
            : code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : NULL;
    return *name ? 0 : 1;
}

int cuCheckpointProcessGetState(int pid, int *state) {
    int failed = called("state", pid, NULL);
    if (failed) return failed;
    if (state_of(pid) < 0) return 201;
    *state = (int)state_of(pid);
    return 0;
}

int cuCheckpointProcessLock(int pid, LockArgs *arguments) {
    int failed = called("lock", pid, arguments);
    if (failed) return failed;
    long busy = number_in("busy", 0);
    int is_late = arguments->timeoutMs && busy > (long)arguments->timeoutMs;
    usleep((is_late ? arguments->timeoutMs : busy) * 1000);
    if (is_late) return 600;
    if (state_of(pid) != 0) return 1;
    set_state(pid, 1);
    return 0;
}

int cuCheckpointProcessCheckpoint(int pid, CheckpointArgs *arguments) {
    int failed = called("checkpoint", pid, arguments);
    if (failed) return failed;
    if (state_of(pid) != 1) return 1;
    set_state(pid, 2);
    return 0;
}

int cuCheckpointProcessRestore(int pid, RestoreArgs *arguments) {
    int failed = called("restore", pid, arguments);
    if (failed) return failed;
    if (state_of(pid) != 2 || arguments->gpuPairs || arguments->gpuPairsCount) return 1;
    set_state(pid, 1);
    return 0;
}

int cuCheckpointProcessUnlock(int pid, UnlockArgs *arguments) {
    int failed = called("unlock", pid, arguments);
    if (failed) return failed;
    if (state_of(pid) != 1) return 1;
    set_state(pid, 0);
    return 0;
}

/* What a process does with its GPU: waits while its calls are locked. Not of the real library. */
void fakeWork(void) {
    if (state_of(getpid()) < 0) set_state(getpid(), 0);
    while (state_of(getpid()) != 0) usleep(1000);
}
