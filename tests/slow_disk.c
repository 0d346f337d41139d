/* Simulates a slow disk. Loaded with LD_PRELOAD, it delays every sync of a process by the number of seconds in the file
   named by SLOW_DISK. The file is polled during the delay, so that a test can end it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define POLL_S 0.01

static double delay_s(void)
{
    const char *name = getenv("SLOW_DISK");
    FILE *file = name == NULL ? NULL : fopen(name, "r");
    double seconds = 0;
    if (file == NULL)
        return 0;
    if (fscanf(file, "%lf", &seconds) != 1)
        seconds = 0;
    fclose(file);
    return seconds;
}

static int delayed(const char *sync, int descriptor)
{
    for (double waited_s = 0; waited_s < delay_s(); waited_s += POLL_S)
        usleep((useconds_t)(POLL_S * 1e6));
    return ((int (*)(int))dlsym(RTLD_NEXT, sync))(descriptor);
}

int fsync(int descriptor)
{
    return delayed("fsync", descriptor);
}

int fdatasync(int descriptor)
{
    return delayed("fdatasync", descriptor);
}
