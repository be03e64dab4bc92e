/*
 * The functions of NVIDIA's driver that bistro-worker calls, for who links it without a driver: each jumps to the function
 * of the same name in libcuda.so.1, which is looked for once, when the program starts. Where there is none, as on a machine
 * without a GPU, each answers CUDA_ERROR_STUB_LIBRARY, and the program says in a line of its own what is missing instead of
 * not starting at all. The same holds for single functions that an older driver does not have.
 *
 * functions.h has a line FUNCTION(name) for each; hack/cuda/build writes it.
 */
#include <dlfcn.h>

enum { CUDA_SUCCESS = 0, CUDA_ERROR_STUB_LIBRARY = 34 };

static int missing(void) { return CUDA_ERROR_STUB_LIBRARY; }

static int describe(int error, const char **text) {
    (void)error;
    *text = "there is no libcuda.so.1: the NVIDIA driver is not installed, or was not put into the container";
    return CUDA_SUCCESS;
}

/* Where each function is. */
#define FUNCTION(name) __attribute__((visibility("hidden"))) void *bistro_##name = (void *)missing;
#include "functions.h"
#undef FUNCTION

/* Arguments stay where they are, whatever they are: registers and stack are those of the caller. */
#if defined(__x86_64__)
#define JUMP(name) "endbr64\n jmp *bistro_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(name) "adrp x16, bistro_" #name "\n ldr x16, [x16, :lo12:bistro_" #name "]\n br x16\n"
#else
#error "no jump for this processor"
#endif
#define FUNCTION(name) \
    __asm__(".text\n .globl " #name "\n .type " #name ", %function\n" #name ":\n" JUMP(name) ".size " #name ", . - " #name "\n");
#include "functions.h"
#undef FUNCTION

__attribute__((constructor)) static void find(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    void *found;
    if (!driver) {
        bistro_cuGetErrorString = (void *)describe;
        return;
    }
#define FUNCTION(name) \
    if ((found = dlsym(driver, #name))) bistro_##name = found;
#include "functions.h"
}
