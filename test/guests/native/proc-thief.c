/* Tries every descriptor of every process that it sees, over and over: is one a procfs whose
 * core_pattern can be written, or a directory from which the root of the host can be reached?
 * usage: proc-thief MARK SECRET, where MARK is made when one is, and SECRET is a path below the
 * host's root that the container does not have. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const kernel[] = {"sys/kernel/core_pattern", "1/root/proc/sys/kernel/core_pattern"};

static void found(const char *mark, const char *path) {
    FILE *file = fopen(mark, "a");
    if (file) {
        fprintf(file, "%s\n", path);
        fclose(file);
    }
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    pid_t own = getpid();
    for (;;) {
        DIR *processes = opendir("/proc");
        struct dirent *process;
        while (processes && (process = readdir(processes))) {
            int pid = atoi(process->d_name);
            if (pid <= 0 || pid == own)
                continue;
            for (int fd = 3; fd < 40; fd++) {
                char path[512];
                for (size_t i = 0; i < sizeof kernel / sizeof *kernel; i++) {
                    snprintf(path, sizeof path, "/proc/%d/fd/%d/%s", pid, fd, kernel[i]);
                    int opened = open(path, O_WRONLY);
                    if (opened >= 0) {
                        found(argv[1], path);
                        close(opened);
                    }
                }
                snprintf(path, sizeof path, "/proc/%d/fd/%d/../../../../../../..%s", pid, fd, argv[2]);
                if (access(path, F_OK) == 0)
                    found(argv[1], path);
            }
        }
        if (processes)
            closedir(processes);
    }
}
