package blocking

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"strings"
)

// function is what is known of one.
type function struct {
	name string
	does []operation
}

// operation is something that a function does: it waits, takes a lock, or calls another function.
type operation struct {
	pos      token.Pos
	waits    string          // for what it may wait; "" if it is a call or a lock
	lock     string          // the lock that is taken
	call     string          // the function that is called
	dynamic  bool            // call names a field or a method of an interface
	held     map[string]bool // the locks that are held meanwhile, of those that the function took
	released map[string]bool // the locks of the callers that the function has let go meanwhile
}

// reader reads one function, statement after statement, with the locks that are held at each.
type reader struct {
	p        *Program
	info     *types.Info
	path     string
	fn       *function
	released map[string]bool
}

func (r *reader) note(op operation, held map[string]bool) {
	op.held, op.released = maps.Clone(held), maps.Clone(r.released)
	r.fn.does = append(r.fn.does, op)
}

// block reads statements that come one after the other. held is changed as they take and free locks.
func (r *reader) block(list []ast.Stmt, held map[string]bool) {
	for _, stmt := range list {
		r.statement(stmt, held)
	}
}

// branch reads statements that may be skipped, or that leave the function: locks that they free are held again after those.
func (r *reader) branch(list []ast.Stmt, held map[string]bool) {
	inside, released := maps.Clone(held), maps.Clone(r.released)
	r.block(list, inside)
	if n := len(list); n > 0 {
		switch last := list[n-1].(type) {
		case *ast.ReturnStmt:
			r.released = released
			return
		case *ast.BranchStmt:
			if last.Tok != token.FALLTHROUGH {
				r.released = released
				return
			}
		}
	}
	clear(held)
	maps.Copy(held, inside)
}

func (r *reader) statement(stmt ast.Stmt, held map[string]bool) {
	switch s := stmt.(type) {
	case *ast.BlockStmt:
		r.block(s.List, held)
	case *ast.LabeledStmt:
		r.statement(s.Stmt, held)
	case *ast.IfStmt:
		r.expressions(held, s.Init, s.Cond)
		r.branch(s.Body.List, held)
		if s.Else != nil {
			r.branch([]ast.Stmt{s.Else}, held)
		}
	case *ast.ForStmt:
		r.expressions(held, s.Init, s.Cond)
		r.branch(s.Body.List, held)
		r.expressions(held, s.Post)
	case *ast.RangeStmt:
		r.expressions(held, s.X)
		if _, ok := r.typeOf(s.X).(*types.Chan); ok {
			r.note(operation{pos: s.Pos(), waits: "receive from " + types.ExprString(s.X)}, held)
		}
		r.branch(s.Body.List, held)
	case *ast.SwitchStmt:
		r.expressions(held, s.Init, s.Tag)
		r.clauses(s.Body.List, held)
	case *ast.TypeSwitchStmt:
		r.expressions(held, s.Init, s.Assign)
		r.clauses(s.Body.List, held)
	case *ast.SelectStmt:
		r.choice(s, held)
	case *ast.SendStmt:
		r.expressions(held, s.Value)
		r.note(operation{pos: s.Pos(), waits: "send to " + types.ExprString(s.Chan)}, held)
	case *ast.GoStmt:
		for _, arg := range s.Call.Args {
			r.expressions(held, arg)
		}
	case *ast.DeferStmt:
		if _, unlocks, is := r.locking(s.Call); is && unlocks {
			return // the lock is held up to the end
		}
		r.expressions(held, s.Call)
	default:
		r.expressions(held, stmt)
	}
}

func (r *reader) clauses(list []ast.Stmt, held map[string]bool) {
	for _, each := range list {
		if clause, ok := each.(*ast.CaseClause); ok {
			for _, e := range clause.List {
				r.expressions(held, e)
			}
			r.branch(clause.Body, held)
		}
	}
}

// choice reads a select, which waits unless it has a default.
func (r *reader) choice(s *ast.SelectStmt, held map[string]bool) {
	var of []string
	waits := true
	for _, each := range s.Body.List {
		clause, ok := each.(*ast.CommClause)
		switch {
		case !ok:
		case clause.Comm == nil:
			waits = false
		default:
			of = append(of, channel(clause.Comm))
		}
	}
	if waits {
		r.note(operation{pos: s.Pos(), waits: "select of " + strings.Join(of, ", ")}, held)
	}
	for _, each := range s.Body.List {
		if clause, ok := each.(*ast.CommClause); ok {
			r.branch(clause.Body, held)
		}
	}
}

// channel tells which channel a case of a select is about.
func channel(comm ast.Stmt) (name string) {
	if send, ok := comm.(*ast.SendStmt); ok {
		return types.ExprString(send.Chan) + "<-"
	}
	ast.Inspect(comm, func(n ast.Node) bool {
		if receive, ok := n.(*ast.UnaryExpr); ok && receive.Op == token.ARROW {
			name = "<-" + types.ExprString(receive.X)
		}
		return name == ""
	})
	return name
}

// expressions reads the calls and receives in nodes.
func (r *reader) expressions(held map[string]bool, nodes ...ast.Node) {
	for _, node := range nodes {
		if node == nil {
			continue
		}
		ast.Inspect(node, func(n ast.Node) bool {
			switch e := n.(type) {
			case nil:
				return false
			case *ast.FuncLit:
				r.branch(e.Body.List, held) // as if it were called here
				return false
			case *ast.UnaryExpr:
				if e.Op == token.ARROW {
					r.note(operation{pos: e.Pos(), waits: "receive from " + types.ExprString(e.X)}, held)
				}
			case *ast.CallExpr:
				return r.call(e, held)
			case *ast.Ident:
				r.value(e, held)
			}
			return true
		})
	}
}

// call reads one, and tells whether what is in it is to be read too.
func (r *reader) call(c *ast.CallExpr, held map[string]bool) bool {
	if lock, unlocks, is := r.locking(c); is {
		switch {
		case !unlocks:
			r.note(operation{pos: c.Pos(), lock: lock}, held)
			held[lock] = true
			delete(r.released, lock)
		case held[lock]:
			delete(held, lock)
		default:
			if r.released == nil {
				r.released = map[string]bool{}
			}
			r.released[lock] = true
		}
		return false
	}
	object, selection := r.callee(c)
	if what := r.info.Types[c.Fun]; what.IsType() || types.TypeString(what.Type, nil) == "context.CancelFunc" {
		return true // a conversion; or what does not wait
	}
	switch o := object.(type) {
	case *types.Func:
		name := o.Origin().FullName()
		if starts[name] {
			for _, arg := range c.Args {
				if _, ok := arg.(*ast.FuncLit); !ok {
					r.expressions(held, arg)
				}
			}
			return false
		}
		dynamic := selection != nil && types.IsInterface(selection.Recv())
		if dynamic && (o.Pkg() == nil || !r.p.ours(o.Pkg().Path())) {
			dynamic = false // it is judged by its package, as all that is of others
		}
		r.note(operation{pos: c.Pos(), call: name, dynamic: dynamic}, held)
	case *types.Var:
		if o.IsField() {
			r.note(operation{pos: c.Pos(), call: r.fieldName(o, selection), dynamic: true}, held)
		} else if o.Parent() != nil && o.Pkg() != nil && !isLocalFunc(o) {
			r.note(operation{pos: c.Pos(), call: r.fn.name + "'s " + o.Name(), dynamic: true}, held)
		}
	}
	return true
}

// callee is what a call calls, nil if it is no name; with how it was selected, if it was.
func (r *reader) callee(c *ast.CallExpr) (types.Object, *types.Selection) {
	name := ast.Unparen(c.Fun)
	if generic, ok := name.(*ast.IndexExpr); ok {
		name = generic.X
	}
	switch f := name.(type) {
	case *ast.Ident:
		return r.info.Uses[f], nil
	case *ast.SelectorExpr:
		return r.info.Uses[f.Sel], r.info.Selections[f]
	}
	return nil, nil
}

// value reads a function that is handed on, as if it were called here.
func (r *reader) value(id *ast.Ident, held map[string]bool) {
	f, ok := r.info.Uses[id].(*types.Func)
	if !ok {
		return
	}
	if recv := f.Signature().Recv(); recv == nil || !types.IsInterface(recv.Type()) {
		r.note(operation{pos: id.Pos(), call: f.Origin().FullName()}, held)
	}
}

// isLocalFunc is true for variables of a function: a literal that one holds is read where it stands.
func isLocalFunc(o *types.Var) bool { return o.Kind() == types.LocalVar }

// starts are functions that have their arguments called by another goroutine.
var starts = map[string]bool{"(*sync.WaitGroup).Go": true, "context.AfterFunc": true, "time.AfterFunc": true}

// locking tells which lock a call takes or frees.
func (r *reader) locking(c *ast.CallExpr) (lock string, unlocks, is bool) {
	method, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", false, false
	}
	f, ok := r.info.Uses[method.Sel].(*types.Func)
	if !ok {
		return "", false, false
	}
	switch f.FullName() {
	case "(*sync.Mutex).Lock", "(*sync.RWMutex).Lock", "(*sync.RWMutex).RLock":
	case "(*sync.Mutex).Unlock", "(*sync.RWMutex).Unlock", "(*sync.RWMutex).RUnlock":
		unlocks = true
	default:
		return "", false, false
	}
	if field, ok := method.X.(*ast.SelectorExpr); ok {
		if v, ok := r.info.Uses[field.Sel].(*types.Var); ok {
			return r.fieldName(v, r.info.Selections[field]), unlocks, true
		}
	}
	return r.path + "." + types.ExprString(method.X), unlocks, true
}

// fieldName is TYPE.FIELD, by the type that has the field, also where it is embedded in another.
func (r *reader) fieldName(field *types.Var, selection *types.Selection) string {
	if selection == nil {
		return fmt.Sprintf("%s.%s", field.Pkg().Path(), field.Name())
	}
	owner := deref(selection.Recv())
	for _, index := range selection.Index()[:len(selection.Index())-1] {
		if s, ok := owner.Underlying().(*types.Struct); ok {
			owner = deref(s.Field(index).Type())
		}
	}
	return fmt.Sprintf("%s.%s", types.TypeString(owner, nil), field.Name())
}

func deref(t types.Type) types.Type {
	if p, ok := t.Underlying().(*types.Pointer); ok {
		return p.Elem()
	}
	return t
}

func (r *reader) typeOf(e ast.Expr) types.Type {
	if t := r.info.TypeOf(e); t != nil {
		return t.Underlying()
	}
	return nil
}
