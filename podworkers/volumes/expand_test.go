package volumes

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"minikubelet/podworkers/csi"
)

// TestExpansionOf: when a volume grows, and to what, by what its claim says and what this node has of it.
func TestExpansionOf(t *testing.T) {
	storage := func(size string) corev1.ResourceList {
		if size == "" {
			return nil
		}
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	}
	for name, tt := range map[string]struct {
		has, allocated string
		stage          corev1.ClaimResourceStatus
		shared         bool
		complete       bool   // the controller did everything
		here           string // what this node has
		wants          string // the volume's
		size           string // "" for no expansion
		tracked        bool
		written        bool
	}{
		"nothing to do":                    {has: "1Gi", wants: "1Gi", here: "1Gi"},
		"smaller":                          {has: "2Gi", wants: "1Gi", here: "2Gi"},
		"pending":                          {has: "1Gi", wants: "2Gi", allocated: "2Gi", stage: corev1.PersistentVolumeClaimNodeResizePending, size: "2Gi", tracked: true},
		"interrupted":                      {has: "1Gi", wants: "2Gi", allocated: "2Gi", stage: corev1.PersistentVolumeClaimNodeResizeInProgress, size: "2Gi", tracked: true},
		"less is allocated":                {has: "1Gi", wants: "3Gi", allocated: "2Gi", stage: corev1.PersistentVolumeClaimNodeResizePending, size: "2Gi", tracked: true},
		"infeasible":                       {has: "1Gi", wants: "2Gi", allocated: "2Gi", stage: corev1.PersistentVolumeClaimNodeResizeInfeasible},
		"the controller is at work":        {has: "1Gi", wants: "2Gi", allocated: "2Gi", stage: corev1.PersistentVolumeClaimControllerResizeInProgress},
		"allocated, nothing said":          {has: "1Gi", wants: "2Gi", allocated: "2Gi"},
		"a controller that says no stages": {has: "1Gi", wants: "2Gi", size: "2Gi"},
		"shared, done elsewhere":           {has: "2Gi", wants: "2Gi", shared: true, here: "1Gi", size: "2Gi", written: true},
		"shared, done here":                {has: "2Gi", wants: "2Gi", shared: true, here: "2Gi"},
		"shared, just mounted":             {has: "2Gi", wants: "2Gi", shared: true},
		"shared, no node has to":           {has: "2Gi", wants: "2Gi", shared: true, here: "1Gi", complete: true},
		"not shared, done elsewhere":       {has: "2Gi", wants: "2Gi", here: "1Gi"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Capacity: storage(tt.has), AllocatedResources: storage(tt.allocated)}}
			if tt.stage != "" {
				claim.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: tt.stage}
			}
			if tt.shared {
				claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
			}
			if tt.complete {
				claim.Annotations = map[string]string{notRequired: ""}
			}
			here := resource.Quantity{}
			if tt.here != "" {
				here = resource.MustParse(tt.here)
			}
			got := expansionOf(claim, &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{Capacity: storage(tt.wants)}}, here)
			if got.needed != (tt.size != "") || got.needed && (got.size.Cmp(resource.MustParse(tt.size)) != 0 || got.tracked != tt.tracked || got.written != tt.written) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestRecovery: a size that the driver does not give is tried on, and is infeasible once the user asks for another.
func TestRecovery(t *testing.T) {
	c := bound(corev1.PersistentVolumeSource{})
	m, _ := withClaims(t, c)
	g := &growth{request: &csi.Request{Name: "pv"}}
	todo := expansion{needed: true, size: resource.MustParse("2Gi"), tracked: true}
	stage := func(size string, answer codes.Code) corev1.ClaimResourceStatus {
		t.Helper()
		c.claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
		if err := m.expansionFailed(t.Context(), c.claim, todo, g, status.Error(answer, "no")); err == nil {
			t.Error("it is not tried again")
		}
		return c.claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage]
	}
	for _, step := range []struct {
		size   string
		answer codes.Code
		want   corev1.ClaimResourceStatus
	}{
		{"1Gi", codes.Unavailable, ""}, // which is not final
		{"1Gi", codes.Internal, corev1.PersistentVolumeClaimNodeResizeInProgress},
		{"2Gi", codes.Internal, corev1.PersistentVolumeClaimNodeResizeInProgress},
		{"1Gi", codes.Internal, corev1.PersistentVolumeClaimNodeResizeInfeasible},
	} {
		if got := stage(step.size, step.answer); got != step.want {
			t.Errorf("%s asked for, the driver says %v: the claim is %q, want %q", step.size, step.answer, got, step.want)
		}
	}
	again := New(m.opts)
	if err := again.expansionFailed(t.Context(), c.claim, todo, g, status.Error(codes.OutOfRange, "never")); err == nil || c.claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] != corev1.PersistentVolumeClaimNodeResizeInfeasible {
		t.Errorf("the driver says never: %v", c.claim.Status)
	}
}

// TestResized: a claim whose volume has grown waits for nothing more, and keeps what others say of it.
func TestResized(t *testing.T) {
	c := bound(corev1.PersistentVolumeSource{})
	c.claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	c.claim.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending}
	c.claim.Status.Conditions = []corev1.PersistentVolumeClaimCondition{
		{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue}, {Type: "Theirs", Status: corev1.ConditionTrue},
	}
	c.claim.ResourceVersion = "7"
	m, _ := withClaims(t, c)
	claim, err := m.setResize(t.Context(), c.claim, corev1.PersistentVolumeClaimNodeResizeInProgress, nil, true)
	if err != nil || claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] != corev1.PersistentVolumeClaimNodeResizeInProgress {
		t.Fatalf("%+v, %v", claim, err)
	}
	if err := m.setResized(t.Context(), claim, resource.MustParse("2Gi")); err != nil {
		t.Fatal(err)
	}
	s := c.claim.Status
	if s.Capacity.Storage().String() != "2Gi" || len(s.AllocatedResourceStatuses) != 0 || len(s.Conditions) != 1 || s.Conditions[0].Type != "Theirs" {
		t.Errorf("%+v", s)
	}
	if c.claim.Spec.VolumeName != "pv" {
		t.Errorf("what is not of the status changed: %+v", c.claim.Spec)
	}
}
