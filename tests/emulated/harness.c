/* Calls kernels on arrays that lie flush against memory nobody may touch.

   The program runs in an emulator; see emulator.py, which writes what it reads, 64-bit words:

     jobs                                 how many follow
     kernel arguments result place        of each job; place 0: arrays begin where their pages
                                          do, 1: they end where those do
     -1 value                             of each argument: an integer,
     bytes items...                       or an array, filled up to whole words

   The number of each job goes to stderr before it begins, so that the last one is the culprit; the
   array that it has written, argument number `result`, goes to stdout.  */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MOST 16 /* arguments */

typedef void kernel(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                    int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
extern kernel *kernels[];

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static void get(void *to, size_t size)
{
    if (fread(to, 1, size, stdin) != size) fail("fread");
}

static int64_t word(void)
{
    int64_t value;
    get(&value, sizeof value);
    return value;
}

int main(void)
{
    int64_t jobs = word(), page = sysconf(_SC_PAGESIZE);
    int length = prctl(PR_SVE_GET_VL);
    fprintf(stderr, "vectors of %d bytes\n", length < 0 ? 16 : length & PR_SVE_VL_LEN_MASK);
    for (int64_t job = 0; job < jobs; job++) {
        int64_t number = word(), count = word(), result = word(), place = word();
        int64_t values[MOST] = {0}, bytes[MOST];
        char *memory[MOST];
        size_t sizes[MOST];
        if (count > MOST) fail("too many arguments");
        for (int i = 0; i < count; i++) {
            bytes[i] = word();
            if (bytes[i] < 0) {
                values[i] = word();
                continue;
            }
            size_t room = (bytes[i] + page - 1) / page * page;
            sizes[i] = room + 2 * page;
            memory[i] = mmap(0, sizes[i], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory[i] == MAP_FAILED) fail("mmap");
            char *array = memory[i] + page + (place ? room - bytes[i] : 0), rest[8];
            memset(memory[i] + page, 0xFF, room); /* beside the array is NaN */
            get(array, bytes[i]);
            get(rest, -bytes[i] & 7);
            mprotect(memory[i], page, PROT_NONE);
            mprotect(memory[i] + page + room, page, PROT_NONE);
            if (i != result) mprotect(memory[i] + page, room, PROT_READ);
            values[i] = (int64_t)array;
        }
        fprintf(stderr, "%lld\n", (long long)job);
        int64_t *v = values;
        kernels[number](v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11],
                        v[12], v[13], v[14], v[15]);
        fwrite((char *)values[result], 1, bytes[result], stdout);
        for (int i = 0; i < count; i++)
            if (bytes[i] >= 0) munmap(memory[i], sizes[i]);
    }
    return 0;
}
