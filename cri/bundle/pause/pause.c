// SPDX-License-Identifier: Apache-2.0

// pause is the first process of a pod. It keeps the pod's namespaces, collects its orphans and ends
// when it is told to.
#include <signal.h>
#include <sys/wait.h>

int main(void) {
	sigset_t signals;
	int sig;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, 0);
	for (;;) {
		if (sigwait(&signals, &sig) != 0)
			return 1;
		if (sig != SIGCHLD)
			return 0;
		while (waitpid(-1, 0, WNOHANG) > 0)
			;
	}
}
