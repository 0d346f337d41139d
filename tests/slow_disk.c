/* A disk that is slow to write through. Loaded before libc (LD_PRELOAD), it makes every sync of a process first wait for
   as many seconds as the file named in SLOW_DISK says; the file is read again and again, so a disk may recover. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LOOK_S 0.01

static double told_s(void)
{
    const char *name = getenv("SLOW_DISK");
    FILE *told = name == NULL ? NULL : fopen(name, "r");
    double seconds = 0;
    if (told == NULL)
        return 0;
    if (fscanf(told, "%lf", &seconds) != 1)
        seconds = 0;
    fclose(told);
    return seconds;
}

static int slowly(const char *sync, int file)
{
    for (double waited_s = 0; waited_s < told_s(); waited_s += LOOK_S)
        usleep((useconds_t)(LOOK_S * 1e6));
    return ((int (*)(int))dlsym(RTLD_NEXT, sync))(file);
}

int fsync(int file)
{
    return slowly("fsync", file);
}

int fdatasync(int file)
{
    return slowly("fdatasync", file);
}
