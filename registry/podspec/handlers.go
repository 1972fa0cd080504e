// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// handler is what probes and lifecycle hooks do.
type handler struct {
	exec    *corev1.ExecAction
	httpGet *corev1.HTTPGetAction
	tcp     *corev1.TCPSocketAction
	grpc    *corev1.GRPCAction
	sleep   *corev1.SleepAction
}

func (h handler) validate(path *field.Path, grace *int64) field.ErrorList {
	s := sources{path: path, what: "handler"}
	addSource(&s, "exec", h.exec, func(path *field.Path, a *corev1.ExecAction) field.ErrorList {
		return rule.If(len(a.Command) == 0, field.Required(path.Child("command"), ""))
	})
	addSource(&s, "httpGet", h.httpGet, validateHTTPGet)
	addSource(&s, "tcpSocket", h.tcp, func(path *field.Path, a *corev1.TCPSocketAction) field.ErrorList {
		return rule.PortNumberOrName(path.Child("port"), a.Port)
	})
	addSource(&s, "grpc", h.grpc, func(path *field.Path, a *corev1.GRPCAction) field.ErrorList {
		errs := rule.PortNumberOrName(path.Child("port"), intstr.FromInt32(a.Port))
		return append(errs, rule.SupportedIfSet(path.Child("mode"), a.Mode, corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS)...)
	})
	addSource(&s, "sleep", h.sleep, func(path *field.Path, a *corev1.SleepAction) field.ErrorList {
		if grace == nil || a.Seconds >= 0 && a.Seconds <= *grace {
			return nil
		}
		return field.ErrorList{field.Invalid(path, a.Seconds,
			fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))}
	})
	return s.done()
}

func validateHTTPGet(path *field.Path, get *corev1.HTTPGetAction) field.ErrorList {
	errs := rule.Required(path.Child("path"), get.Path)
	errs = append(errs, rule.PortNumberOrName(path.Child("port"), get.Port)...)
	errs = append(errs, rule.Supported(path.Child("scheme"), get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, h := range get.HTTPHeaders {
		errs = append(errs, rule.Invalid(path.Child("httpHeaders"), h.Name, validation.IsHTTPHeaderName(h.Name))...)
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("protocol"), get.Protocol, corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2)...)
	if get.Protocol != nil && *get.Protocol == corev1.HTTPProtocolHTTP2 {
		switch {
		case get.Scheme != corev1.URISchemeHTTP:
			errs = append(errs, field.Invalid(path.Child("protocol"), *get.Protocol, "is only supported with HTTP (H2C)"))
		case get.Host != "":
			errs = append(errs, field.Invalid(path.Child("host"), get.Host, "must be empty when `protocol` is \"HTTP2\""))
		}
	}
	return errs
}

func validateProbes(path *field.Path, c *corev1.Container, grace *int64) field.ErrorList {
	var errs field.ErrorList
	if p, at := c.LivenessProbe, path.Child("livenessProbe"); p != nil {
		errs = append(errs, validateProbe(at, p, grace)...)
		errs = append(errs, rule.If(p.SuccessThreshold != 1, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))...)
	}
	if p, at := c.ReadinessProbe, path.Child("readinessProbe"); p != nil {
		errs = append(errs, validateProbe(at, p, grace)...)
		if seconds := p.TerminationGracePeriodSeconds; seconds != nil {
			errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes"))
		}
	}
	if p, at := c.StartupProbe, path.Child("startupProbe"); p != nil {
		errs = append(errs, validateProbe(at, p, grace)...)
		errs = append(errs, rule.If(p.SuccessThreshold != 1, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))...)
	}
	return errs
}

func validateProbe(path *field.Path, p *corev1.Probe, grace *int64) field.ErrorList {
	errs := handler{exec: p.Exec, httpGet: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}.validate(path, grace)
	errs = append(errs, rule.NonNegative(path.Child("initialDelaySeconds"), p.InitialDelaySeconds)...)
	errs = append(errs, rule.NonNegative(path.Child("timeoutSeconds"), p.TimeoutSeconds)...)
	errs = append(errs, rule.NonNegative(path.Child("periodSeconds"), p.PeriodSeconds)...)
	errs = append(errs, rule.NonNegative(path.Child("successThreshold"), p.SuccessThreshold)...)
	errs = append(errs, rule.NonNegative(path.Child("failureThreshold"), p.FailureThreshold)...)
	if seconds := p.TerminationGracePeriodSeconds; seconds != nil && *seconds <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *seconds, "must be greater than 0"))
	}
	return errs
}

func validateLifecycle(path *field.Path, l *corev1.Lifecycle, grace *int64, os *corev1.PodOS) field.ErrorList {
	var errs field.ErrorList
	if l == nil {
		return nil
	}
	if h := l.PostStart; h != nil {
		errs = append(errs, handler{exec: h.Exec, httpGet: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}.validate(path.Child("postStart"), grace)...)
	}
	if h := l.PreStop; h != nil {
		errs = append(errs, handler{exec: h.Exec, httpGet: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}.validate(path.Child("preStop"), grace)...)
	}
	if l.StopSignal != nil {
		errs = append(errs, validateStopSignal(path.Child("stopSignal"), *l.StopSignal, os)...)
	}
	return errs
}

func validateStopSignal(path *field.Path, signal corev1.Signal, os *corev1.PodOS) field.ErrorList {
	switch {
	case os == nil:
		return field.ErrorList{field.Forbidden(path, "may not be set for containers with empty `spec.os.name`")}
	case os.Name == corev1.Windows:
		return rule.Supported(path, signal, corev1.SIGKILL, corev1.SIGTERM)
	case os.Name == corev1.Linux:
		return rule.Supported(path, signal, linuxSignals()...)
	}
	return nil
}

// linuxSignals lists the names of the signals of Linux, sorted.
func linuxSignals() []corev1.Signal {
	names := sets.New(strings.Fields(`ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV
		STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX`)...)
	for i := 1; i <= 15; i++ {
		names.Insert(fmt.Sprintf("RTMIN+%d", i))
	}
	for i := 1; i <= 14; i++ {
		names.Insert(fmt.Sprintf("RTMAX-%d", i))
	}
	signals := make([]corev1.Signal, 0, names.Len())
	for _, name := range sets.List(names) {
		signals = append(signals, corev1.Signal("SIG"+name))
	}
	return signals
}
